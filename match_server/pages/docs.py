"""The documentation of the API, as a page from the OpenAPI document."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, make_response, render_template

from match_server.api.cached_response import CachedResponse


def add_documentation(blueprint: Blueprint, document: Callable[[], Mapping[str, Any]]) -> None:
    """Adds `/docs`."""

    def documentation() -> Response:
        page = render_template(
            "docs.html", api=document(), resolve=_resolve, calls_by_tag=_calls_by_tag
        )
        return make_response(page)

    blueprint.add_url_rule("/docs", "docs", CachedResponse(documentation), methods=["GET"])


def _calls_by_tag(api: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, Any]]]]:
    """Returns method, path and description of every call, by tag."""
    calls: dict[str, list[tuple[str, str, Any]]] = {}
    for path, methods in api["paths"].items():
        for method, call in methods.items():
            calls.setdefault(call["tags"][0], []).append((method, path, call))
    return list(calls.items())


def _resolve(api: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Returns name and fields of a schema, which may be a reference."""
    reference = str(schema.get("$ref", ""))
    if not reference and "oneOf" in schema:
        reference = str(schema["oneOf"][0].get("$ref", ""))
    name = reference.rpartition("/")[2]
    resolved: Mapping[str, Any] = api["components"]["schemas"].get(name, schema)
    return name, resolved.get("properties", {})
