"""Batches of pictures and templates to enroll: a line and a verdict for each."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator
from pydantic_core import to_json

from match_server.schemas.base import (
    ApiModel,
    EncodedVector,
    Metadata,
    ModelId,
    Moment,
    Name,
    Picture,
    Text,
    Vector,
)
from match_server.schemas.persons import (
    FORCE,
    FaceBox,
    FaceIndex,
    GroupIds,
    PersonCreate,
    PersonName,
    require_single_choice,
)


class BatchQuery(ApiModel):
    """Options for all pictures of a batch."""

    store: bool = Field(default=False, description="Keep the photos.")
    storage: Name | None = Field(default=None, description="Keep them in this storage.")
    face: Literal["largest"] | None = Field(
        default=None, description="Of several faces of like size, take the largest."
    )
    force: bool = Field(default=False, description=FORCE)


class BatchLine(ApiModel):
    """A line of a batch: a picture or a template, and its person."""

    name: Text | None = Field(
        default=None,
        description="Name of the person, who is created if there is none of that name.",
    )
    person: Name | None = Field(
        default=None, description="The person's id, needed where several have one name."
    )
    file: Text | None = Field(default=None, description="Repeated in the verdict.")
    image: Picture | None = None
    face: FaceIndex = None
    box: FaceBox = None
    template: Vector | None = None
    model_id: ModelId | None = None
    external_id: Text | None = Field(default=None, description="Of a person that is created.")
    metadata: Metadata = Field(default_factory=dict, description="Of a person that is created.")
    groups: GroupIds = ()
    expires_at: Moment | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.name is None and self.person is None:
            raise ValueError("give the `name` of the person, or its id as `person`")
        if (self.image is None) == (self.template is None):
            raise ValueError("give either a picture (`image`) or a `template` with its `model_id`")
        if (self.template is None) != (self.model_id is None):
            raise ValueError("`template` and `model_id` go together")
        require_single_choice(self.face, self.box, self.image)
        return self

    @property
    def key(self) -> str:
        """The id of the person, or else the name."""
        return self.person or self.name or ""

    def new_person(self) -> PersonCreate:
        """The person to create, if there is none."""
        return PersonCreate(
            id=self.person,
            name=self.name or self.key,
            external_id=self.external_id,
            metadata=self.metadata,
            groups=self.groups,
            expires_at=self.expires_at,
        )


class TemplateLine(ApiModel):
    """The usual line of a template, which is read in half the time of a BatchLine.

    What it does not hold has the default of a BatchLine.
    """

    name: Text
    template: EncodedVector
    model_id: ModelId

    person: ClassVar[None] = None
    file: ClassVar[None] = None
    image: ClassVar[None] = None
    metadata: ClassVar[dict[str, JsonValue]] = {}
    expires_at: ClassVar[None] = None

    @property
    def key(self) -> str:
        """The name of the person."""
        return self.name


class BatchVerdict(ApiModel):
    """The result for a picture or template of a batch."""

    index: int = Field(description="Its place in the batch, from 0.")
    file: str | None = Field(default=None, examples=["eileen/portrait.jpg"])
    status: Literal["accepted", "duplicate", "refused"]
    person: PersonName | None = None
    image_id: str | None = None
    template_id: str | None = None
    quality: float | None = Field(default=None, description="Score of the picture, 0 to 1.")
    faces: int | None = Field(default=None, description="How many faces the picture shows.")
    face: int | None = Field(
        default=None, description="Which of them was taken: its index in the order of `detect`."
    )
    seq: int | None = Field(default=None, description="Number of the write in the change feed.")
    code: str | None = Field(
        default=None, description="Why it was refused: the `code` of an error."
    )
    message: str | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict, description="e.g. `reasons`.")

    def line(self) -> str:
        """A line of NDJSON."""
        return f"{self.model_dump_json(exclude_none=True)}\n"


@dataclass(slots=True)
class AcceptedTemplate:
    """The verdict for a template that was written. Made and printed faster than a BatchVerdict."""

    index: int
    file: str | None
    person: PersonName
    person_json: str
    template_id: str
    seq: int

    status: ClassVar = "accepted"
    message: ClassVar = None

    def line(self) -> str:
        """The same line of NDJSON as that of the BatchVerdict with these values."""
        file = "" if self.file is None else f'"file":{to_json(self.file).decode()},'
        return (
            f'{{"index":{self.index},{file}"status":"accepted","person":{self.person_json},'
            f'"template_id":"{self.template_id}","seq":{self.seq},"details":{{}}}}\n'
        )


Verdict = BatchVerdict | AcceptedTemplate
