"""Detect, search and verify."""

from typing import Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, Decision, ModelId, Name, Picture, Threshold, Vector
from match_server.schemas.persons import Detection
from shared.quality import Pose, Quality

UNCALIBRATED = (
    "The probability that both are the same person. null until a calibration has been measured: "
    "it is not invented from the similarity."
)


class DetectRequest(ApiModel):
    image: Picture


class FaceView(ApiModel):
    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2, pixels")
    score: float
    landmarks: list[tuple[float, float]]
    pose: Pose | None
    quality: Quality
    liveness: float | None


class Detected(ApiModel):
    faces: list[FaceView] = Field(description="Largest first; empty when there is none.")


class ProbeVector(ApiModel):
    vector: Vector
    model_id: ModelId


class SearchRequest(ApiModel):
    """A picture, templates, or an enrolled template to search with."""

    image: Picture | None = None
    templates: list[ProbeVector] | None = Field(default=None, min_length=1, max_length=256)
    template_id: str | None = Field(default=None, min_length=1, max_length=63)
    limit: int = Field(default=10, ge=1, le=1000, description="Longest candidate list.")
    threshold: Threshold | None = Field(
        default=None,
        description="Decides instead of the collection's policy, and cuts the candidate lists.",
    )
    detect_all: bool = Field(
        default=False, description="Search with every face of the picture, not only the largest."
    )
    min_seq: int | None = Field(
        default=None, ge=0, description="Wait (2 s at most) until this write can be found."
    )

    @model_validator(mode="after")
    def _one_probe(self) -> Self:
        given = [self.image, self.templates, self.template_id]
        if sum(item is not None for item in given) != 1:
            raise ValueError("give exactly one of `image`, `templates` and `template_id`")
        return self


class PersonName(ApiModel):
    id: str
    name: str = Field(examples=["Eileen Collins"])


class CandidateView(ApiModel):
    """One person of a candidate list: the best of the person's templates stands for all."""

    person: PersonName
    template_id: str
    similarity: float = Field(description="Cosine of both templates, -1 to 1.")
    distance: float = Field(description="1 - similarity.")
    match_probability: float | None = Field(default=None, description=UNCALIBRATED)
    rank: int


class ProbeAnswer(ApiModel):
    detection: Detection | None = None
    quality: Quality | None = None
    candidates: list[CandidateView]
    decision: Decision
    person: PersonName | None = Field(description="Who it is, when identified.")


class SearchAnswer(ApiModel):
    probes: list[ProbeAnswer]
    searched: int = Field(description="Templates that each probe was compared with.")
    seq: int = Field(description="Number in the change feed that the search had reached.")
    took_ms: float


class VerifySide(ApiModel):
    """One of the two: a picture (its largest face), a template, or an enrolled person."""

    image: Picture | None = None
    template: Vector | None = None
    model_id: ModelId | None = None
    person: Name | None = None
    collection: Name | None = Field(default=None, description="Where the person is enrolled.")

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(item is not None for item in (self.image, self.template, self.person)) != 1:
            raise ValueError("each side is one of `image`, `template` and `person`")
        if (self.template is None) != (self.model_id is None):
            raise ValueError("`template` and `model_id` go together")
        if (self.person is None) != (self.collection is None):
            raise ValueError("`person` and `collection` go together")
        return self


class VerifyRequest(ApiModel):
    pair: tuple[VerifySide, VerifySide] = Field(
        description="The two to compare. As multipart: the field `image` twice."
    )
    threshold: Threshold | None = Field(
        default=None, description="Else the policy of the person's collection, else 0.35."
    )


class Verified(ApiModel):
    similarity: float = Field(description="Of a person: the best of the person's templates.")
    distance: float = Field(description="1 - similarity.")
    match_probability: float | None = Field(default=None, description=UNCALIBRATED)
    decision: Literal["match", "no_match"]
    threshold: float
