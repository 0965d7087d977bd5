"""The OpenAPI 3.1 document, made from the routes and their pydantic models."""

import inspect
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from match_server.api.routing import JSON, RawBody, Route
from match_server.schemas.base import NDJSON, ErrorBody, InText

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "Malformed: a wrong type, range or field.",
    401: "No key, or an unknown one.",
    403: "The key's role does not allow this.",
    404: "It does not exist.",
    408: "The client sent its request too slowly.",
    409: "It contradicts what is stored, or is of another model.",
    410: "The feed cannot be followed from there: take a snapshot.",
    413: "The body or picture is too large.",
    414: "The address with its query is too long.",
    415: "Not a picture, or a content type that is not supported.",
    422: "Understood, but unusable: `details.reasons` says why.",
    429: "Too much in too short a time; `Retry-After` says when to come back.",
    503: "Not at the moment; try again later.",
}
_DESCRIPTION = """Who is in front of this camera, now, and how sure are we?

Keys go into `Authorization: Bearer KEY`. Times are RFC 3339 in UTC. A picture is the multipart
field `image`, or base64 in JSON, never an address. Similarity is the cosine of two templates and
`distance` is 1 - similarity; `match_probability` is null until a calibration was measured."""


def openapi_document(routes: Sequence[Route]) -> Json:
    """The whole contract as one document."""
    refs, schemas = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": version("muster"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(route: Route) -> str:
    """The path as OpenAPI writes it."""
    return re.sub(r"<(\w+)>", r"{\1}", route.path)


def _schemas(routes: Iterable[Route]) -> tuple[dict[tuple[type, str], Json], Json]:
    models: dict[tuple[type[BaseModel], str], None] = {(ErrorBody, "serialization"): None}
    for route in routes:
        body = _body(route)
        if body is not None:
            models[body.schema, "validation"] = None
        if route.response is not None:
            models[route.response, "serialization"] = None
    refs, document = models_json_schema(list(models), ref_template=_REF)  # type: ignore[arg-type]
    return refs, document["$defs"]  # type: ignore[return-value]


def _body(route: Route) -> RawBody | None:
    return route.raw_body if route.body is None else RawBody(route.body)


def _operation(route: Route, refs: dict[tuple[type, str], Json]) -> Json:
    summary, _, description = (inspect.getdoc(route.function) or "").partition("\n\n")
    operation: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": " ".join(summary.split()).removesuffix("."),
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": _responses(route, refs),
        "security": [] if route.permission is None else [{"key": []}],
    }
    if route.permission is not None:
        needs = f"Needs the permission `{route.permission.name.lower()}`."
        description = f"{description}\n\n{needs}" if description else needs
    if description:
        operation["description"] = description
    body = _body(route)
    if body is not None:
        operation["requestBody"] = _request_body(route, body, refs[body.schema, "validation"])
    return operation


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<(\w+)>", route.path)
    ]


def _query_parameters(route: Route) -> list[Json]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema()
    fields: Json = {**schema["properties"], **_lists_as_text(route.query)}
    return [
        {"name": name, "in": "query", "required": False, "schema": field}
        for name, field in fields.items()
    ]


def _lists_as_text(model: type[BaseModel]) -> Json:
    """The fields with a list, which is one text in a query or a form."""
    return {
        name: {"type": "string", "description": field.description or ""}
        for name, field in model.model_fields.items()
        if any(isinstance(mark, InText) for mark in field.metadata)
    }


def _request_body(route: Route, body: RawBody, ref: Json) -> Json:
    if body.media_type == NDJSON:
        return _batch_body(route, ref)
    schema = ref
    if body.max_items:
        many = {"type": "array", "items": ref, "minItems": 1, "maxItems": body.max_items}
        schema = {"oneOf": [ref, many]}
    content: Json = {body.media_type: {"schema": schema}}
    if route.example:
        content[body.media_type]["example"] = dict(route.example)
    if route.takes_picture:
        content["multipart/form-data"] = {"schema": _form_schema(body.schema)}
    return {"required": True, "content": content}


def _batch_body(route: Route, ref: Json) -> Json:
    """The body of a batch: a JSON object a line, or files in a form."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {**files, "description": "Files named `<person>/<file>`."}},
    }
    return {
        "required": True,
        "description": "Of any length: memory does not grow with it. The response may be read "
        "while the body is sent, or after it. `curl -X POST -T FILE` sends a file of any size; "
        "`--data-binary @FILE` reads it into memory first and takes at most 1 GB.",
        "content": {
            NDJSON: {"schema": ref, "example": dict(route.example)},
            "multipart/form-data": {"schema": form},
        },
    }


def _form_schema(model: type[BaseModel]) -> Json:
    """The picture as a file, and the plain parameters as form fields."""
    file: Json = {"type": "string", "format": "binary"}
    fields: Json = model.model_json_schema()["properties"]
    plain = {
        name: field
        for name, field in fields.items()
        if name not in ("image", "template", "templates", "pair") and "$ref" not in str(field)
    }
    plain |= {name: field for name, field in _lists_as_text(model).items() if name in plain}
    image: Json = file if "image" in fields else {"type": "array", "items": file, "minItems": 2}
    return {"type": "object", "required": ["image"], "properties": {"image": image, **plain}}


def _responses(route: Route, refs: dict[tuple[type, str], Json]) -> Json:
    good: Json = {"description": "Done."}
    if route.response is not None:
        schema = refs[route.response, "serialization"]
        good["content"] = {route.media_type: {"schema": schema}}
    elif route.media_type != JSON:
        bytes_or_text = {"format": "binary"} if route.media_type.startswith("image/") else {}
        good["content"] = {route.media_type: {"schema": {"type": "string", **bytes_or_text}}}
    else:
        good["content"] = {route.media_type: {"schema": {"type": "object"}}}
    responses = {str(route.status): good}
    for status in sorted({*route.errors, *_errors_of_all(route)}):
        responses[str(status)] = {
            "description": _MEANING[status],
            "content": {"application/json": {"schema": refs[ErrorBody, "serialization"]}},
        }
    return responses


def _errors_of_all(route: Route) -> set[int]:
    """The statuses of errors that every call of its kind may return."""
    errors = set() if route.permission is None else {401, 403, 429}
    if _body(route) is not None:
        errors |= {400, 408, 413, 415, 503}
    if route.query is not None:
        errors |= {400, 414}
    return errors
