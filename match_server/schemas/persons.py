"""Persons, their images and templates; enrollment."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import (
    ApiModel,
    InText,
    Metadata,
    ModelId,
    Moment,
    Name,
    Paging,
    Pending,
    Picture,
    PictureRequest,
    Text,
    Vector,
    Written,
)
from match_server.schemas.selection import Conditions
from shared.wire.quality import Pose, Quality

GroupIds = Annotated[
    tuple[Name, ...],
    Field(max_length=100, description="Ids of groups of the person's collection."),
]


FORCE = (
    "Enroll in spite of bad quality, of a lookalike, of a picture unlike the person's own "
    "references, or of something that is hardly a face."
)


def require_single_choice(face: object, box: object, image: bytes | None) -> None:
    """Raises ValueError if both `face` and `box` are set, or one of them without a picture."""
    if face is not None and box is not None:
        raise ValueError("`face` and `box` both say which face is meant: give one of them")
    if image is None and (face is not None or box is not None):
        raise ValueError("`face` and `box` choose a face of a picture, and none is given")


class PersonCreate(ApiModel):
    name: Text = Field(examples=["Eileen Collins"])
    id: Name | None = Field(default=None, description="Chosen by the client, else a UUIDv7.")
    external_id: Text | None = Field(default=None, examples=["payroll-4711"])
    metadata: Metadata = Field(default_factory=dict)
    groups: GroupIds = ()
    expires_at: Moment | None = Field(
        default=None, description="From then on the person is never a candidate."
    )


class PersonPatch(ApiModel):
    """Changes; fields that are not given stay. null removes `external_id` and `expires_at`."""

    name: Text | None = None
    external_id: Text | None = None
    metadata: Metadata | None = None
    groups: GroupIds | None = Field(
        default=None, description="All groups of the person; the person leaves others."
    )
    expires_at: Moment | None = None


class PersonQuery(Paging):
    q: Text | None = Field(default=None, description="Part of the name.")
    external_id: str | None = Field(default=None, min_length=1, max_length=200)
    group: Name | None = Field(default=None, description="Id of a group that the person is in.")
    expired: bool | None = Field(
        default=None, description="Only persons who have expired, or who have not."
    )
    filter: Annotated[Conditions, InText.JSON] = Field(
        default=(), description="Conditions as in a search, as JSON; all must fit."
    )


class PersonView(ApiModel):
    id: str
    name: str = Field(examples=["Eileen Collins"])
    external_id: str | None
    metadata: Metadata
    groups: list[str] = Field(description="Ids of the groups that the person is in.")
    expires_at: Moment | None
    expired: bool = Field(description="Whether `expires_at` has passed.")
    images: int
    templates: int
    created_at: Moment


class PersonWritten(PersonView, Written):
    pass


class PersonErased(Written):
    """What was erased with the person; each number counts things that are gone for good."""

    person: str = Field(description="The person's id.")
    groups: int = Field(description="Groups that the person was in.")
    templates: int
    images: int
    events: int = Field(description="Events that no longer name the person.")
    snapshots: int = Field(description="Thumbnails of the person that were deleted.")
    erasure: str = Field(description="Id of the certificate: `GET /v1/erasures/{id}`.")
    pending: Pending = 0


FaceIndex = Annotated[
    Annotated[int, Field(ge=0, le=9999)] | Literal["largest"] | None,
    Field(
        description="Which face of the picture is meant: its index in the order of `detect`, or "
        "`largest`. Needed where several faces are of like size."
    ),
]
FaceBox = Annotated[
    tuple[float, float, float, float] | None,
    InText.COMMAS,
    Field(
        description="Or where the face is, x1 y1 x2 y2 in pixels (in a form separated by commas): "
        "the face that overlaps this most."
    ),
]


class Enrollment(PictureRequest):
    """A picture, or a template from elsewhere with the model that made it."""

    image: Picture | None = None
    template: Vector | None = None
    model_id: ModelId | None = None
    store: bool = Field(default=False, description="Keep the photo.")
    storage: Name | None = Field(
        default=None, description="Keep it in this storage; without, in the data folder."
    )
    face: FaceIndex = None
    box: FaceBox = None
    force: bool = Field(default=False, description=FORCE)

    @model_validator(mode="after")
    def _image_or_template(self) -> Self:
        if (self.image is None) == (self.template is None):
            raise ValueError("give either a picture (`image`) or a `template` with its `model_id`")
        if (self.template is None) != (self.model_id is None):
            raise ValueError("`template` and `model_id` go together")
        if self.keeps and self.image is None:
            raise ValueError("`store` and `storage` keep a photo, and a template is none")
        require_single_choice(self.face, self.box, self.image)
        return self

    @property
    def has_picture(self) -> bool:
        return self.image is not None

    @property
    def keeps(self) -> bool:
        """Whether the photo is to be kept."""
        return self.store or self.storage is not None


class Detection(ApiModel):
    """Where the enrolled or searched face was, in pixels of the picture."""

    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2")
    score: float = Field(description="The detector's score, 0 to 1.")
    landmarks: list[tuple[float, float]] = Field(description="68 points (iBUG order), or five.")
    pose: Pose | None = None
    liveness: float | None = Field(default=None, description="0 to 1; weak on stills.")
    faces: int = Field(description="How many faces were found in the picture.")
    face: int = Field(
        default=0, description="Which of them this is: its index in the order of `detect`."
    )
    certainty: float | None = Field(
        default=None,
        description="How surely this is a face and not something that looks like one, 0 to 1; "
        "null: not computed.",
    )


class PersonName(ApiModel):
    id: str
    name: str = Field(examples=["Eileen Collins"])


class Enrolled(Written):
    person: PersonName
    image_id: str | None = Field(description="null when a template was enrolled.")
    template_id: str
    quality: Quality | None
    detection: Detection | None
    url: str | None = Field(default=None, description="Where the photo is, when it was kept.")
    references: int = Field(description="Templates that the person has now.")
    advice: str | None = Field(
        default=None, description="What would help to recognise this person more surely."
    )
    duplicate: bool = Field(
        default=False,
        description="The same file had been enrolled for this person; nothing was added.",
    )


class ImageView(ApiModel):
    id: str
    person: str
    stored: bool
    storage: str | None = Field(description="Where the photo is kept; null: in the data folder.")
    url: str | None
    media_type: str
    size_bytes: int
    quality: Quality
    detection: Detection
    template_ids: list[str]
    created_at: Moment


class TemplateCreate(ApiModel):
    template: Vector
    model_id: ModelId


class TemplateView(ApiModel):
    """A template, without its vector."""

    id: str
    person: str
    model_id: str
    image_id: str | None
    quality: float | None = Field(description="Score of the picture that it came from.")
    created_at: Moment


class TemplateQuery(ApiModel):
    vector: bool = Field(
        default=False, description="With its vector; needs the permission to enroll."
    )


class TemplateDetail(TemplateView):
    """A template, with its vector if the query asks for it."""

    vector: str | None = Field(default=None, description="Base64 of little-endian float16.")


class TemplateWritten(TemplateView, Written):
    pass


class Removed(Written):
    images: int
    templates: int
    pending: Pending = 0
