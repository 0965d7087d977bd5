"""Messages of the change feed: snapshots and changes of one collection.

The server assigns numbers to persons and templates, and never uses a number twice.
"""

import base64
import binascii
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, model_validator

from shared.wire.base import WireModel
from shared.wire.messages import Name
from shared.wire.template import MAX_DIMENSION

_LARGEST = 1.01  # of a value in a row of unit length, and a little
Number = Annotated[int, Field(ge=1, lt=2**63)]
Seq = Annotated[int, Field(ge=0, lt=2**63)]


class FeedPerson(WireModel):
    """A person whose templates a follower holds."""

    number: Number
    id: Name
    name: str | None = None  # only for followers that may know it
    expires_at: AwareDatetime | None = None  # nobody from this moment on


class FeedTemplates(WireModel):
    """Templates, column by column."""

    numbers: list[Number] = Field(default_factory=list)
    persons: list[Number] = Field(default_factory=list)  # whose they are
    vectors: str = ""  # base64 of little-endian float16, one row a template

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if len(self.persons) != len(self.numbers):
            raise ValueError("every template has a number and a person")
        return self

    @classmethod
    def pack(cls, templates: list[tuple[int, int, bytes]]) -> Self:
        """From number, person and vector (little-endian float16) of each."""
        vectors = b"".join(vector for _, _, vector in templates)
        return cls(
            numbers=[number for number, _, _ in templates],
            persons=[person for _, person, _ in templates],
            vectors=base64.b64encode(vectors).decode("ascii"),
        )

    def rows(self, dimension: int) -> NDArray[np.float16]:
        """The vectors (n, dimension). Raises ValueError where they do not fit."""
        try:
            raw = base64.b64decode(self.vectors, validate=True)
        except binascii.Error as error:
            raise ValueError("templates are base64") from error
        if len(raw) != 2 * dimension * len(self.numbers):
            raise ValueError(f"{len(raw)} bytes are not {len(self.numbers)} templates")
        rows = np.frombuffer(raw, dtype="<f2").reshape(len(self.numbers), dimension)
        if not (np.abs(rows) <= _LARGEST).all():
            raise ValueError("templates are finite rows of unit length")
        return rows


class Gallery(WireModel):
    """What is followed, and how a candidate list of it is decided."""

    collection: Name
    scope: str = Field(max_length=64)
    """Identifies the data that this follower may have; if it changes, take a new snapshot."""
    model_id: str = Field(min_length=1, max_length=80)
    dimension: int = Field(ge=1, le=MAX_DIMENSION)
    threshold: float = Field(ge=-1, le=1)
    margin: float = Field(ge=0, le=2)


class FeedChanges(WireModel):
    """What happened to a gallery after a number of the feed.

    To be applied in this order: `left`, `removed`, `persons`, `templates`. A template that is held
    already may come again.
    """

    gallery: Gallery
    seq: Seq  # all changes up to this one are in here
    more: bool  # there are further changes: ask again at once
    at: AwareDatetime  # by the server's clock
    left: list[Number] = Field(default_factory=list)  # persons that are not of it (any more)
    removed: list[Number] = Field(default_factory=list)  # templates that are gone
    persons: list[FeedPerson] = Field(default_factory=list)  # new, or as they are now
    templates: FeedTemplates = FeedTemplates()


class Held(WireModel):
    """What a follower holds, for a comparison with the database. See `template_hash.digest_of`."""

    templates: int = Field(ge=0)
    digest: str = Field(pattern="^[0-9a-f]{16}$")
    at: AwareDatetime  # by the follower, which holds nobody who expired before


class SnapshotHead(WireModel):
    """First line of a snapshot. It is whole once the changes after `seq` are applied to it."""

    kind: Literal["head"] = "head"
    gallery: Gallery
    seq: Seq
    at: AwareDatetime


class SnapshotPart(WireModel):
    """Some templates by ascending number, and the persons that they are of."""

    kind: Literal["part"] = "part"
    after: Number  # number of the last template: a snapshot cut short goes on from here
    persons: list[FeedPerson]
    templates: FeedTemplates


class SnapshotEnd(WireModel):
    """Last line: without it, and unless the digest fits, the snapshot was cut short."""

    kind: Literal["end"] = "end"
    templates: int = Field(ge=0)  # in the parts before
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of their lines, with line ends


SnapshotLine = Annotated[SnapshotHead | SnapshotPart | SnapshotEnd, Field(discriminator="kind")]
