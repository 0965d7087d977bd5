"""Candidates, and the rule that decides between them, which edge devices share."""

from collections.abc import Sequence
from typing import NamedTuple

from match_server.schemas.persons import PersonName
from match_server.schemas.search import CandidateView
from shared.decision import decide

__all__ = ["Candidate", "decide", "views_of"]


class Candidate(NamedTuple):
    """One person of a candidate list, by the most similar of the person's templates."""

    person_number: int
    person_id: str
    person_name: str
    template_id: str
    similarity: float  # cosine, -1..1
    match_probability: float | None = None  # None: the collection has no calibration

    @property
    def person(self) -> PersonName:
        return PersonName(id=self.person_id, name=self.person_name)

    def view(self, rank: int, collection: str | None = None) -> CandidateView:
        """The candidate as clients see it; `rank` counts from 1."""
        return CandidateView.of(
            self.person,
            self.template_id,
            self.similarity,
            self.match_probability,
            rank=rank,
            collection=collection,
        )


def views_of(candidates: Sequence[Candidate]) -> list[CandidateView]:
    """A candidate list, best first, as clients see it."""
    return [candidate.view(rank) for rank, candidate in enumerate(candidates, start=1)]
