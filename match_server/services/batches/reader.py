"""Reads batches from HTTP requests in pieces, never as a whole."""

import codecs
import sys
from collections.abc import Iterator
from typing import IO

from flask import Request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from match_server.schemas.base import NDJSON
from match_server.schemas.batches import BatchLine, TemplateLine
from match_server.schemas.validation import read_if_valid, validated, validated_json
from match_server.services.batches.batches import Item
from match_server.services.batches.person_folders import PersonFolders
from shared.errors import (
    MalformedInput,
    MusterError,
    RequestTimeout,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)

_CHUNK = 64 * 1024
_DECODER_BYTES = 16 * _CHUNK  # bound of a part's headers; contents are passed on
_TEMPLATE_LINE_BYTES = 16 * 1024  # others have a picture
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def items_of(request: Request, max_bytes: int) -> Iterator[Item]:
    """The items in the body of a request, each at most `max_bytes` large.

    An unreadable part is an item with an error, so that it gets a verdict and the rest goes on.
    Raises UnsupportedMedia at once when the body has another media type.
    """
    # The limit of other bodies does not apply: one picture is held at a time, with its own limit.
    request.max_content_length = sys.maxsize
    if request.mimetype == NDJSON:
        return _to_the_end(lines_of(request.stream, max_bytes))
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype == "multipart/form-data" and boundary:
        return _to_the_end(_parts_of(request.stream, boundary, max_bytes))
    raise UnsupportedMedia(
        f"a batch is multipart/form-data with files `images`, or {NDJSON} (one JSON object a line)"
    )


def lines_of(stream: IO[bytes], max_bytes: int, *, start: int = 0) -> Iterator[Item]:
    """NDJSON from line `start` on; empty lines are skipped, but counted."""
    for index, text in enumerate(_lines(stream, 2 * max_bytes)):  # base64 is a third longer
        if index < start or (text is not None and not text.removeprefix(codecs.BOM_UTF8).strip()):
            continue
        if text is None:
            wrong = TooLarge(f"the line is longer than {2 * max_bytes} bytes")
            yield Item(index, None, wrong)
        else:
            yield _line_item(index, text)


def _line_item(index: int, text: bytes) -> Item:
    template = read_if_valid(TemplateLine, text) if len(text) < _TEMPLATE_LINE_BYTES else None
    if template is not None:
        return Item(index, None, template)
    try:
        line = validated_json(BatchLine, text)
    except MalformedInput as error:
        return Item(index, None, error)
    return Item(index, line.file, line)


def picture_item(index: int, file: str, person: str, data: bytes) -> Item:
    """The item of a picture of a person, by name or id; `file` is repeated in the verdict."""
    line: BatchLine | MusterError
    try:
        line = validated(BatchLine, {"name": person, "image": data})
    except MalformedInput as error:
        line = error
    return Item(index, file, line)


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of a stream; None for a line that is too long, which is not held."""
    held = bytearray()
    too_long = False
    while chunk := stream.read(_CHUNK):
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            too_long = too_long or len(held) + len(piece) > max_bytes
            if too_long:
                yield None
            else:
                yield bytes(held + piece) if held else piece
            held.clear()
            too_long = False
        too_long = too_long or len(held) + len(rest) > max_bytes
        if too_long:
            held.clear()
        else:
            held += rest
    if held or too_long:
        yield None if too_long else bytes(held)


class _Decoder(MultipartDecoder):
    """Reads a file name that is not UTF-8 with U+FFFD, where werkzeug would raise."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        return super()._parse_headers(data.decode("utf-8", "replace").encode())


def _parts_of(stream: IO[bytes], boundary: str, max_bytes: int) -> Iterator[Item]:
    decoder = _Decoder(boundary.encode("latin-1"), max_form_memory_size=_DECODER_BYTES)
    folders = PersonFolders()
    index = 0
    part: Field | File | None = None
    held: bytearray | None = None
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, NeedData):
            decoder.receive_data(stream.read(_CHUNK) or None)
        elif isinstance(event, Field | File):
            part, held = event, bytearray()
        elif isinstance(event, Data) and part is not None:
            if held is not None and len(held) + len(event.data) <= max_bytes:
                held += event.data
            else:
                held = None
            if not event.more_data:
                yield _item(index, part, held, max_bytes, folders)
                index += 1


def _item(
    index: int,
    part: Field | File,
    data: bytearray | None,
    max_bytes: int,
    folders: PersonFolders,
) -> Item:
    file = part.filename if isinstance(part, File) else None
    if file is None or part.name != "images":
        wrong = MalformedInput(
            f"the part {part.name!r} is not a file named `images`; what holds for all stands in "
            "the query"
        )
        return Item(index, file, wrong)
    if data is None:
        return Item(index, file, TooLarge(f"the picture is larger than {max_bytes} bytes"))
    person, slash, rest = file.replace("\\", "/").strip("/").rpartition("/")
    person = person.rpartition("/")[2]
    if not slash or not person or not rest:
        unnamed = MalformedInput("the file is not named <person>/<file>, so it has no person")
        return Item(index, file, unnamed)
    if _REPLACED in person:
        odd = MalformedInput("the person's name in the file name is not UTF-8")
        return Item(index, file, odd)
    folders.add(file)
    return folders.checked(picture_item(index, file, person, bytes(data)))


def _to_the_end(items: Iterator[Item]) -> Iterator[Item]:
    """All items; a truncated or invalid body ends with an item that has the error."""
    index = -1
    try:
        for item in items:
            index = item.index
            yield item
    except (RequestTimeout, Unavailable) as error:  # of a client that sends slowly
        yield Item(index + 1, None, error)
    except (ValueError, HTTPException):
        fault = MalformedInput("the body ends too soon, or cannot be read from here on")
        yield Item(index + 1, None, fault)
