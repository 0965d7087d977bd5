"""Detect, search and verify."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from match_server.schemas.base import (
    ApiModel,
    Decision,
    InText,
    Metadata,
    ModelId,
    Moment,
    Name,
    Picture,
    PictureRequest,
    Text,
    Threshold,
    Vector,
)
from match_server.schemas.collections import GateName
from match_server.schemas.persons import Detection, GroupIds, PersonName
from match_server.schemas.selection import Conditions, Names
from shared.wire.quality import Pose, Quality

UNCALIBRATED = (
    "The probability that both are the same person, 0 to 1, from the calibration that the "
    "collection has adopted, if half of the probes are of enrolled persons. null without a "
    "calibration: it is not invented from the similarity."
)


Rounded = Annotated[float, AfterValidator(lambda value: round(value, 6))]


class DetectRequest(PictureRequest):
    image: Picture
    gate: GateName = Field(
        default="doorway", description="Its ranges are those that the factors must be in."
    )


class FaceView(ApiModel):
    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2, pixels")
    score: float
    landmarks: list[tuple[float, float]]
    pose: Pose | None
    quality: Quality
    liveness: float | None


class Detected(ApiModel):
    faces: list[FaceView] = Field(description="Largest first; empty when there is none.")


class EmbedRequest(DetectRequest):
    collection: Name | None = Field(
        default=None,
        description="Its model makes the vectors; else the model of new collections.",
    )
    numbers: bool = Field(
        default=False, description="Vectors as lists of numbers; else as base64 of float16."
    )


class EmbeddedFace(FaceView):
    vector: Vector


class Embedded(ApiModel):
    """The faces of a picture with their templates, which belong to this model only."""

    model_id: str
    dimension: int
    faces: list[EmbeddedFace] = Field(description="Largest first; empty when there is none.")


class ProbeVector(ApiModel):
    vector: Vector
    model_id: ModelId


class SearchForm(PictureRequest):
    """A picture, templates, or an enrolled template to search with, and whom to look for."""

    image: Picture | None = None
    templates: list[ProbeVector] | None = Field(default=None, min_length=1, max_length=256)
    template_id: str | None = Field(default=None, min_length=1, max_length=63)
    limit: int = Field(default=10, ge=1, le=1000, description="Longest candidate list.")
    threshold: Threshold | None = Field(
        default=None,
        description="Decides instead of the collection's policy, and cuts the candidate lists.",
    )
    groups: Annotated[Names | None, InText.COMMAS] = Field(
        default=None,
        description="Only persons in one of these groups (ids; in a form separated by commas).",
    )
    filter: Annotated[Conditions, InText.JSON] = Field(
        default=(), description="Only persons whom every condition fits (in a form as JSON)."
    )
    detect_all: bool = Field(
        default=False,
        description="Search with every face of the picture, not only the largest. A person is "
        "then named once: where two faces are alike one person, the better keeps the name.",
    )
    min_seq: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Wait (2 s at most) until this write is searchable.",
    )

    @model_validator(mode="after")
    def _single_probe(self) -> Self:
        probes = [self.image, self.templates, self.template_id]
        if sum(probe is not None for probe in probes) != 1:
            raise ValueError("give exactly one of `image`, `templates` and `template_id`")
        return self

    @property
    def has_picture(self) -> bool:
        return self.image is not None


class Newcomer(ApiModel):
    """The data of a person whom a search creates."""

    name: Text | None = Field(default=None, description='Default: "Unknown" and the time.')
    metadata: Metadata = Field(default_factory=dict)
    groups: GroupIds = ()
    expires_at: Moment | None = None


class SearchRequest(SearchForm):
    create_person: Newcomer | bool = Field(
        default=False,
        description="Create a person for each face that nobody in the collection is like, if its "
        "quality passes the collection's gate and it is surely a face. Needs the permission "
        "`enroll` as well.",
    )

    @model_validator(mode="after")
    def _newcomers_are_new(self) -> Self:
        if self.create_person is not False:
            if self.template_id is not None:
                raise ValueError("`create_person`: an enrolled template has its person already")
            if self.groups is not None or self.filter:
                raise ValueError(
                    "`create_person` needs a search of the whole collection, else somebody outside "
                    "of `groups` and `filter` would be created again"
                )
        return self

    @property
    def newcomer(self) -> Newcomer | None:
        """The data of a person to create; None: no person is created."""
        if isinstance(self.create_person, bool):
            return Newcomer() if self.create_person else None
        return self.create_person


class SearchEverywhere(SearchForm):
    """A search over several collections, all of one model."""

    collections: Annotated[Names, InText.COMMAS] = Field(
        description="Names of collections (in a form separated by commas).",
        examples=[["staff", "visitors"]],
    )


class CandidateView(ApiModel):
    """A person in a candidate list, with the most similar of the person's templates."""

    person: PersonName
    collection: str | None = Field(
        default=None, description="Where the person is enrolled; null in events, which have it."
    )
    template_id: str
    similarity: float = Field(description="Cosine of both templates, -1 to 1.")
    distance: float = Field(description="1 - similarity.")
    match_probability: float | None = Field(default=None, description=UNCALIBRATED)
    rank: int

    @classmethod
    def of(
        cls,
        person: PersonName,
        template_id: str,
        similarity: float,
        match_probability: float | None,
        *,
        rank: int,
        collection: str | None = None,
    ) -> Self:
        """The view of a candidate; `rank` counts from 1. Figures are rounded to 6 decimals."""
        return cls(
            person=person,
            collection=collection,
            template_id=template_id,
            similarity=round(similarity, 6),
            distance=round(1.0 - similarity, 6),
            match_probability=None if match_probability is None else round(match_probability, 6),
            rank=rank,
        )


class ProbeAnswer(ApiModel):
    detection: Detection | None = None
    quality: Quality | None = None
    candidates: list[CandidateView]
    decision: Decision
    person: PersonName | None = Field(
        description="Who it is, when identified; the new person, when one was created."
    )
    collection: str | None = Field(default=None, description="Where `person` is enrolled.")
    created: bool = Field(default=False, description="Whether this search created `person`.")
    not_created: list[str] = Field(
        default_factory=list,
        description="Why `create_person` created nobody from an unknown face: factors of its "
        "quality, `doubtful_face` (hardly a face), `several_faces` (of like size, without "
        "`detect_all`).",
    )


class SearchAnswer(ApiModel):
    probes: list[ProbeAnswer]
    searched: int = Field(description="Templates that each probe was compared with.")
    seq: int = Field(description="Number in the change feed that the search had reached.")
    thresholds: dict[str, float] = Field(
        description="The similarity from which a candidate was identified, by collection: that of "
        "the request, else that of the collection's operating point at this moment.",
        examples=[{"staff": 0.41}],
    )
    took_ms: float


class VerifySide(ApiModel):
    """One of the two: a picture (its largest face), a template, or an enrolled person."""

    image: Picture | None = None
    template: Vector | None = None
    model_id: ModelId | None = None
    person: Name | None = None
    collection: Name | None = Field(default=None, description="Where the person is enrolled.")

    @model_validator(mode="after")
    def _single_source(self) -> Self:
        if sum(item is not None for item in (self.image, self.template, self.person)) != 1:
            raise ValueError("each side is one of `image`, `template` and `person`")
        if (self.template is None) != (self.model_id is None):
            raise ValueError("`template` and `model_id` go together")
        if (self.person is None) != (self.collection is None):
            raise ValueError("`person` and `collection` go together")
        return self


class VerifyRequest(PictureRequest):
    pair: tuple[VerifySide, VerifySide] = Field(
        description="The two to compare. As multipart: the field `image` twice."
    )
    threshold: Threshold | None = Field(
        default=None,
        description="Else the policy's `threshold` of the person's collection, else the "
        "one at which of all verifications of two persons one in 10,000 is a match, by the "
        "collection's calibration or the model pack's reference.",
    )

    @property
    def has_picture(self) -> bool:
        return any(side.image is not None for side in self.pair)


class Verified(ApiModel):
    similarity: Rounded = Field(description="Of a person: the best of the person's templates.")
    distance: Rounded = Field(description="1 - similarity.")
    match_probability: Rounded | None = Field(default=None, description=UNCALIBRATED)
    decision: Literal["match", "no_match"]
    threshold: float
