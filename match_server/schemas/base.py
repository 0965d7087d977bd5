"""Types and base classes of all requests and responses."""

import base64
import binascii
import json
import re
import unicodedata
from datetime import datetime
from enum import Enum, auto
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from shared.clock import rfc3339, sensible
from shared.ids import NAME_PATTERN
from shared.wire.template import MAX_DIMENSION

Item = TypeVar("Item")

MAX_METADATA_BYTES = 16_384
NDJSON = "application/x-ndjson"  # a JSON object a line

_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's general categories
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
_UNSEEN = {"Cf", "Zs"}
# Bidirectional embeddings, overrides and isolates: a name with one reorders what stands beside it.
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class InText(Enum):
    """How a list is written as text, in a form or a query."""

    COMMAS = auto()
    JSON = auto()


class ApiModel(BaseModel):
    """Base of all requests and responses: unknown fields are refused, numbers are finite."""

    # A schema is built at its first use: a process uses few of them.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, defer_build=True)


class Page(ApiModel, Generic[Item]):
    """A page of a list; `total` counts all items that match the filters."""

    items: list[Item]
    page: int
    size: int
    total: int
    next: str | None = Field(
        default=None, description="Value of `after` for the next page; null: this is the last page."
    )


class Paging(ApiModel):
    """The requested page of a list."""

    page: int = Field(default=1, ge=1, le=1_000_000)
    size: int = Field(default=50, ge=1, le=1000)
    after: str | None = Field(
        default=None,
        max_length=1000,
        description="`next` of the previous page, instead of `page`: the list continues after the "
        "last row of that page, also when rows were deleted meanwhile.",
    )

    @model_validator(mode="after")
    def _page_or_after(self) -> Self:
        if self.after is not None and self.page != 1:
            raise ValueError("give `page` or `after`, not both")
        return self

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.size


class PictureRequest(ApiModel):
    """Base of requests with a picture: they may be a form too, with parameters in the query."""

    @property
    def has_picture(self) -> bool:
        """Whether the request holds a picture; some may hold a template in place of it."""
        return True


class Written(ApiModel):
    """The response to a write; a search can wait until `seq` is searchable."""

    seq: int = Field(description="Number of this write in the change feed.")


class ErrorBody(ApiModel):
    """The body of every error response."""

    code: str = Field(examples=["not_found"])
    message: str = Field(examples=["there is no collection 'staff'"])
    details: dict[str, JsonValue] = {}
    request_id: str


def _readable(text: str) -> str:
    if text.isascii() and text.isprintable() and (text := text.strip()):
        return text
    text = unicodedata.normalize("NFC", text).strip()
    kinds = {unicodedata.category(character) for character in text}
    if not kinds - _UNSEEN:
        raise ValueError("must hold at least one visible character")
    if kinds & _CONTROLS:
        raise ValueError("may not hold control characters")
    if _TURNING & set(text):
        raise ValueError("may not turn the direction of the text around it")
    return text


def _written_out(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _RFC3339.match(value):
        return datetime.fromisoformat(value.upper())  # itself: strict parsing takes no text here
    raise ValueError("is a time like 2026-11-22T12:00:00Z (RFC 3339)")


def _small_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("holds a number that is not finite") from error
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"takes more than {MAX_METADATA_BYTES} bytes as JSON")
    if "\\u0000" in text:
        raise ValueError("may not hold NUL characters")
    return value


def _from_base64(text: str) -> bytes:
    """Decodes base64 that may be wrapped. Raises ValueError.

    Pydantic's decoder takes a quarter of the time of Python's. It is more lenient, so it decodes
    only text that Python's decodes too.
    """
    if len(text) % 4 == 0 and "-" not in text and "_" not in text:
        try:
            return _BASE64.validate_strings(text)
        except ValidationError:
            pass
    return base64.b64decode("".join(text.split()), validate=True)


def _picture_bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("is a data URL that is not in base64")
    try:
        return _from_base64(text)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 (a picture is never given by its address)") from None


Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        # What of `_readable` a pattern can say.
        json_schema_extra={
            "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]*"
            "[^\\x00-\\x20\\x7f-\\xa0\\u2028-\\u202e\\u2066-\\u2069]"
            "[^\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]*$"
        },
    ),
    AfterValidator(_readable),
]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_small_json)]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),  # pydantic by itself takes seconds since 1970 as well
    AfterValidator(sensible),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Picture = Annotated[
    bytes,
    Field(
        description="The picture: in JSON base64, wrapped or not, or a data URL in base64; else a "
        "multipart field. Never an address."
    ),
    BeforeValidator(_picture_bytes),
    WithJsonSchema({"type": "string", "format": "byte"}),
]
EncodedVector = Annotated[str, Field(min_length=4, max_length=11_000)]
Vector = Annotated[
    EncodedVector | Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)],
    Field(
        description="A template: base64 of little-endian float16, or a list of numbers. "
        "Finite and of unit length, else it is refused: a vector that is not normalised "
        "is most often not a template of this model.",
        examples=["ADwAAAAAAAA="],
    ),
]
Pending = Annotated[
    int,
    Field(
        description="Files of the whole server that are still to be deleted, because their storage "
        "does not respond or another machine keeps them. The server tries again by itself."
    ),
]
ModelId = Annotated[str, Field(min_length=1, max_length=80)]
Threshold = Annotated[float, Field(ge=-1, le=1)]
Decision = Literal["identified", "unknown", "ambiguous"]
