"""Search ranks; policy decides. The only place where a threshold meets a similarity."""

from collections.abc import Sequence
from dataclasses import dataclass

from match_server.schemas.base import Decision


@dataclass(frozen=True, slots=True)
class Candidate:
    """One person of a candidate list, by the best of the person's templates."""

    person_number: int
    person_id: str
    person_name: str
    template_id: str
    similarity: float  # cosine, -1..1


def decide(candidates: Sequence[Candidate], threshold: float, margin: float) -> Decision:
    """What a candidate list (best first, a person at most once) says about who it is.

    `unknown` when nobody reaches the threshold; `ambiguous` when the best does, but the next
    person is less than `margin` behind: then naming either would be a guess.
    """
    if not candidates or candidates[0].similarity < threshold:
        return "unknown"
    if len(candidates) > 1 and candidates[0].similarity - candidates[1].similarity < margin:
        return "ambiguous"
    return "identified"
