"""The OpenAPI 3.1 document, made from the endpoints and their pydantic models."""

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from match_server.api.operations import OPERATIONS
from match_server.api.routing import Endpoint
from match_server.schemas.base import ErrorBody, InText

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "Malformed: a wrong type, range or field.",
    401: "No key, or one that is not known.",
    403: "The key's role does not allow this.",
    404: "It does not exist.",
    408: "The client sent its request too slowly.",
    409: "It contradicts what is stored, or is of another model.",
    410: "The feed cannot be followed from there: take a snapshot.",
    413: "The body or picture is too large.",
    414: "The address with its query is too long.",
    415: "Not a picture, or a body of a kind that is not read.",
    422: "Understood, but unusable: `details.reasons` says why.",
    429: "Too much in too short a time; `Retry-After` says when to come back.",
    503: "Not at the moment; try again later.",
}
_DESCRIPTION = """Who is in front of this camera, now, and how sure are we?

Keys go into `Authorization: Bearer KEY`. Times are RFC 3339 in UTC. A picture is the multipart
field `image`, or base64 in JSON, never an address. Similarity is the cosine of two templates and
`distance` is 1 - similarity; `match_probability` is null until a calibration was measured."""


def openapi_document(endpoints: Sequence[Endpoint]) -> Json:
    """The whole contract as one document."""
    refs, schemas = _schemas(endpoints)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(_path(endpoint), {})[endpoint.method.lower()] = _operation(endpoint, refs)
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


def _path(endpoint: Endpoint) -> str:
    """The path as OpenAPI writes it."""
    return re.sub(r"<(\w+)>", r"{\1}", endpoint.path)


def _schemas(endpoints: Iterable[Endpoint]) -> tuple[dict[tuple[type, str], Json], Json]:
    wanted: dict[tuple[type[BaseModel], str], None] = {(ErrorBody, "serialization"): None}
    for endpoint in endpoints:
        if endpoint.body is not None:
            wanted[endpoint.body, "validation"] = None
        if endpoint.answer is not None:
            wanted[endpoint.answer, "serialization"] = None
    refs, document = models_json_schema(list(wanted), ref_template=_REF)  # type: ignore[arg-type]
    return refs, document["$defs"]  # type: ignore[return-value]


def _operation(endpoint: Endpoint, refs: dict[tuple[type, str], Json]) -> Json:
    operation: Json = {
        "operationId": OPERATIONS[f"{endpoint.method} {_path(endpoint)}"],
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint)],
        "responses": _responses(endpoint, refs),
        "security": [] if endpoint.permission is None else [{"key": []}],
    }
    if endpoint.permission is not None:
        operation["description"] = f"Needs the permission `{endpoint.permission.name.lower()}`."
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint, refs[endpoint.body, "validation"])
    return operation


def _path_parameters(endpoint: Endpoint) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<(\w+)>", endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[Json]:
    if endpoint.query is None:
        return []
    schema = endpoint.query.model_json_schema()
    fields: Json = {**schema["properties"], **_lists_as_text(endpoint.query)}
    return [
        {"name": name, "in": "query", "required": False, "schema": field}
        for name, field in fields.items()
    ]


def _lists_as_text(model: type[BaseModel]) -> Json:
    """The fields that are lists, as they are written in a query or a form."""
    return {
        name: {"type": "string", "description": field.description or ""}
        for name, field in model.model_fields.items()
        if any(isinstance(mark, InText) for mark in field.metadata)
    }


def _request_body(endpoint: Endpoint, ref: Json) -> Json:
    if endpoint.batch:
        return _batch_body(endpoint, ref)
    schema = ref
    if endpoint.at_once:
        many = {"type": "array", "items": ref, "minItems": 1, "maxItems": endpoint.at_once}
        schema = {"oneOf": [ref, many]}
    content: Json = {"application/json": {"schema": schema}}
    if endpoint.example:
        content["application/json"]["example"] = dict(endpoint.example)
    if endpoint.picture:
        content["multipart/form-data"] = {"schema": _form_schema(endpoint)}
    return {"required": True, "content": content}


def _batch_body(endpoint: Endpoint, ref: Json) -> Json:
    """One JSON object a line, or files; the schemas are of one line and of the whole form."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {**files, "description": "Files named `<person>/<file>`."}},
    }
    return {
        "required": True,
        "description": "As long as one likes: memory does not grow with it. The answer may be read "
        "while this is sent, or after all of it. `curl -X POST -T FILE` sends a file of any size; "
        "`--data-binary @FILE` reads it into memory first and takes at most 1 GB.",
        "content": {
            endpoint.media_type: {"schema": ref, "example": dict(endpoint.example)},
            "multipart/form-data": {"schema": form},
        },
    }


def _form_schema(endpoint: Endpoint) -> Json:
    """The picture as a file, and the plain parameters as form fields."""
    file: Json = {"type": "string", "format": "binary"}
    if endpoint.body is None:
        raise ValueError(f"{endpoint.name} takes a picture and declares no body")
    fields: Json = endpoint.body.model_json_schema()["properties"]
    plain = {
        name: field
        for name, field in fields.items()
        if name not in ("image", "template", "templates", "pair") and "$ref" not in str(field)
    }
    plain |= {name: field for name, field in _lists_as_text(endpoint.body).items() if name in plain}
    image: Json = file if "image" in fields else {"type": "array", "items": file, "minItems": 2}
    return {"type": "object", "required": ["image"], "properties": {"image": image, **plain}}


def _responses(endpoint: Endpoint, refs: dict[tuple[type, str], Json]) -> Json:
    good: Json = {"description": "Done."}
    if endpoint.answer is not None:
        schema = refs[endpoint.answer, "serialization"]
        good["content"] = {endpoint.media_type: {"schema": schema}}
    elif endpoint.media_type != "application/json":
        bytes_or_text = {"format": "binary"} if endpoint.media_type.startswith("image/") else {}
        good["content"] = {endpoint.media_type: {"schema": {"type": "string", **bytes_or_text}}}
    else:
        good["content"] = {endpoint.media_type: {"schema": {"type": "object"}}}
    responses = {str(endpoint.status): good}
    for status in sorted({*endpoint.errors, *_errors_of_all(endpoint)}):
        responses[str(status)] = {
            "description": _MEANING[status],
            "content": {"application/json": {"schema": refs[ErrorBody, "serialization"]}},
        }
    return responses


def _errors_of_all(endpoint: Endpoint) -> set[int]:
    """What every call of its kind may answer."""
    errors = set() if endpoint.permission is None else {401, 403, 429}
    if endpoint.body is not None:
        errors |= {400, 408, 413, 415, 503}
    if endpoint.query is not None:
        errors |= {400, 414}
    return errors
