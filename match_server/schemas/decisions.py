"""Decisions of operators on sightings."""

from typing import Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, Moment, Name
from match_server.schemas.persons import PersonName

DecisionKind = Literal["confirmed", "wrong", "person", "discard"]


class DecisionGiven(ApiModel):
    """An operator's decision on a sighting."""

    decision: DecisionKind = Field(
        description="`confirmed`: the sighting names the right person. `wrong`: it names the wrong "
        "person, and the right one is not known. `person`: the right person is `person`. "
        "`discard`: it shows nobody who matters (a poster, an object)."
    )
    person: Name | None = Field(default=None, description="Id of the person, with `person`.")

    @model_validator(mode="after")
    def _person_goes_with_person(self) -> Self:
        if (self.decision == "person") != (self.person is not None):
            raise ValueError("`person` is given with the decision `person`, and only with that")
        return self


class DecisionView(ApiModel):
    """A decision and its effects."""

    id: str
    event: str
    decision: DecisionKind
    person: PersonName | None
    by: str = Field(description="Id of the key that decided.")
    at: Moment
    relabelled: int = Field(
        description="Other sightings that got the same label: those of the same track, and similar "
        "earlier ones."
    )
    template_id: str | None = Field(description="The reference that was learnt; null: none.")
    not_learnt: str | None = Field(
        default=None, description="Why nothing was learnt, where the collection learns."
    )


class DecisionUndone(ApiModel):
    event: str
    restored: int = Field(description="Sightings that have their former label again.")
    template_id: str | None = Field(description="The learnt reference that was removed.")
