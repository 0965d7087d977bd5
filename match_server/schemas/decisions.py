"""What persons say of sightings."""

from typing import Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, Moment, Name
from match_server.schemas.persons import PersonName

DecisionKind = Literal["confirmed", "wrong", "person", "discard"]


class DecisionGiven(ApiModel):
    """A person's word on a sighting."""

    decision: DecisionKind = Field(
        description="`confirmed`: it is the person it names. `wrong`: it is not, and who it is is "
        "not known. `person`: it is the one that `person` names. `discard`: it shows nobody who "
        "matters (a poster, a thing)."
    )
    person: Name | None = Field(default=None, description="Id of the person, with `person`.")

    @model_validator(mode="after")
    def _person_goes_with_person(self) -> Self:
        if (self.decision == "person") != (self.person is not None):
            raise ValueError("`person` is given with the decision `person`, and only with that")
        return self


class DecisionView(ApiModel):
    """A decision, and what came of it."""

    id: str
    event: str
    decision: DecisionKind
    person: PersonName | None
    by: str = Field(description="Id of the key that decided.")
    at: Moment
    relabelled: int = Field(
        description="Other sightings that say the same now: of the same track, and earlier ones "
        "alike."
    )
    template_id: str | None = Field(description="The reference that was learnt; null: none.")
    not_learnt: str | None = Field(
        default=None, description="Why nothing was learnt, where the collection learns."
    )


class DecisionUndone(ApiModel):
    event: str
    restored: int = Field(description="Sightings that say again what they said before.")
    template_id: str | None = Field(description="The learnt reference that was removed.")
