"""Candidates, and the rule by which they are decided: shared with the boxes."""

from dataclasses import dataclass

from shared.decision import decide

__all__ = ["Candidate", "decide"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One person of a candidate list, by the best of the person's templates."""

    person_number: int
    person_id: str
    person_name: str
    template_id: str
    similarity: float  # cosine, -1..1
    match_probability: float | None = None  # None: the collection has adopted no calibration
