"""Search ranks; policy decides. The only place where a threshold meets a similarity.

Server and box decide with the same code, so that they can only differ by what they hold.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

Decision = Literal["identified", "unknown", "ambiguous"]


class Likeness(Protocol):
    """One person of a candidate list, by the best of the person's templates."""

    @property
    def similarity(self) -> float: ...  # cosine, -1..1


def as_cosine(product: float) -> float:
    """The similarity of two unit vectors: rows in half precision may be a little longer than 1."""
    return min(max(product, -1.0), 1.0)


def decide(candidates: Sequence[Likeness], threshold: float, margin: float) -> Decision:
    """What a candidate list (best first, a person at most once) says about who it is.

    `unknown` when nobody reaches the threshold; `ambiguous` when the best does, but the next
    person is less than `margin` behind: then naming either would be a guess.
    """
    if not candidates or candidates[0].similarity < threshold:
        return "unknown"
    if len(candidates) > 1 and candidates[0].similarity - candidates[1].similarity < margin:
        return "ambiguous"
    return "identified"
