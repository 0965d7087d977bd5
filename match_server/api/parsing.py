"""Parses the query and the body of a request as schemas."""

import io
import json
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import FormDataParser

from match_server.schemas.base import InText, PictureRequest
from match_server.schemas.validation import validated, validated_json
from shared.errors import MalformedInput, UnsupportedMedia

Model = TypeVar("Model", bound=BaseModel)


class BoundedRequest(Request):
    """A request whose files are kept in memory, within the limit of its body.

    Flask would write files of more than 500 KB into the temporary folder. Pictures of encrypted
    collections would lie there unencrypted, and where no folder is writable, uploads would fail.
    """

    def _get_file_stream(self, *_about: Any, **_more: Any) -> io.BytesIO:
        return io.BytesIO()

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False  # else a form that cannot be read would count as empty
        return parser

    def _load_form_data(self) -> None:
        try:
            super()._load_form_data()
        except ValueError as error:
            raise MalformedInput(
                "the form cannot be read: it is cut off, or the name of a file is not UTF-8"
            ) from error


def read_query(request: Request, model: type[Model] | None) -> Model | None:
    """The query as `model`; without a model, a query is refused."""
    values = _single(request.args, "query")
    if model is None:
        if values:
            raise MalformedInput(f"this call takes no parameter {next(iter(values))!r}")
        return None
    return validated(model, _lists(values, model))


def read_body(request: Request, model: type[Model]) -> Model:
    """The body as `model`; a `PictureRequest` may be a form, with parameters in the query."""
    picture = issubclass(model, PictureRequest)
    if picture and request.mimetype == "multipart/form-data":
        query = _lists(_single(request.args, "query"), model)
        return validated(model, _merged(query, _form(request, model)))
    require_json(request)
    if not (picture and request.query_string):
        return validated_json(model, request.get_data())
    # Values of the query are text; those of the body keep their types.
    body = validated_json(_AnyObject, request.get_data()).model_extra or {}
    return validated(model, _merged(_lists(_single(request.args, "query"), model), body))


def require_json(request: Request) -> None:
    """Raises UnsupportedMedia unless the content type of the body is JSON."""
    if not request.is_json:
        raise UnsupportedMedia(
            "the body is JSON (Content-Type: application/json)"
            + (", or multipart/form-data with a picture" if request.mimetype else "")
        )


class _AnyObject(BaseModel, extra="allow"):
    pass


def _single(values: MultiDict[str, str], where: str) -> dict[str, Any]:
    """The values by name. Raises MalformedInput for a name that occurs twice."""
    for name, texts in values.lists():
        if len(texts) > 1:
            raise MalformedInput(f"{name!r} is given {len(texts)} times in the {where}")
    return values.to_dict()


def _form(request: Request, model: type[BaseModel]) -> dict[str, Any]:
    fields = _lists(_single(request.form, "form"), model)
    files = _files(request.files)
    if "pair" in model.model_fields:  # verification: the field `image` twice
        if [name for name, _ in files] != ["image", "image"]:
            raise MalformedInput("to compare two pictures, give the multipart field `image` twice")
        return {**fields, "pair": [{"image": data} for _, data in files]}
    for name, data in files:
        if name in fields:
            raise MalformedInput(f"the multipart field {name!r} is given more than once")
        if name != "image":
            raise MalformedInput(f"the picture is the multipart field `image`, not {name!r}")
        fields[name] = data
    return fields


def _lists(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The values, with texts that stand for lists parsed."""
    for name, field in model.model_fields.items():
        if name in values and InText.COMMAS in field.metadata:
            values[name] = values[name].split(",")
        elif name in values and InText.JSON in field.metadata:
            try:
                values[name] = json.loads(values[name])
            except (ValueError, RecursionError):  # the latter: nested too deep
                raise MalformedInput(f"{name}: in a form or a query this is JSON") from None
    return values


def _files(files: MultiDict[str, FileStorage]) -> list[tuple[str, bytes]]:
    return [(name, part.read()) for name, parts in files.lists() for part in parts]


def _merged(query: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    for name in query.keys() & body.keys():
        raise MalformedInput(f"{name!r} is given in the query and in the body")
    return {**query, **body}
