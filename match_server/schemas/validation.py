"""Validates values as a schema; MalformedInput names each field that is wrong, and the reason."""

import codecs
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import from_json

from shared.errors import MalformedInput
from shared.wire.base import NO_NUL, holds_nul

Model = TypeVar("Model", bound=BaseModel)

_MAX_PROBLEMS = 20
_LONGEST_FIELD = 200


def validated(model: type[Model], values: Any) -> Model:
    """Validate values as `model`. Raises MalformedInput, which does not repeat the values."""
    try:
        checked = model.model_validate(values)
    except ValidationError as error:
        raise malformed(error) from None
    if holds_nul(values):
        raise MalformedInput(NO_NUL)
    return checked


def validated_json(model: type[Model], data: bytes) -> Model:
    """Validate JSON as `model`; a number that is written as text is refused.

    A byte order mark before it is skipped: programs on Windows write one. Raises MalformedInput.
    """
    text = data.removeprefix(codecs.BOM_UTF8)
    try:
        checked: Model = model.__pydantic_validator__.validate_json(text, strict=True)
    except ValidationError as error:
        raise malformed(error) from None
    # JSON has no other way to write one; a single byte is searched fifty times as fast.
    if b"\\" in text and rb"\u0000" in text and holds_nul(from_json(text)):
        raise MalformedInput(NO_NUL)
    return checked


def read_if_valid(model: type[Model], data: bytes) -> Model | None:
    """As `validated_json`, but with None in place of an error, which costs less."""
    try:
        checked: Model = model.__pydantic_validator__.validate_json(data, strict=True)
    except ValidationError:
        return None
    return None if b"\\" in data and rb"\u0000" in data else checked


def malformed(error: ValidationError) -> MalformedInput:
    """The problems by field, without the values: these may be keys, names or templates."""
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    problems: list[JsonValue] = [
        {"field": _field(item), "problem": _plain(item)} for item in errors[:_MAX_PROBLEMS]
    ]
    return MalformedInput(f"{_field(errors[0])}: {_plain(errors[0])}", problems=problems)


def _field(item: Any) -> str:
    """The path of the field with the problem, cut off and escaped: senders invent field names."""
    path = ".".join(str(part) for part in item["loc"])[:_LONGEST_FIELD]
    return (path if path.isprintable() else ascii(path)) or "body"


def _plain(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "this field is not known here"
    return str(item["msg"]).removeprefix("Value error, ")
