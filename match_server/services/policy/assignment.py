"""Decides the identity of all faces of one picture together, so that each person is named once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from match_server.schemas.base import Decision
from match_server.services.policy.candidates import Candidate


class Listed(NamedTuple):
    """A candidate with the operating point of its collection."""

    candidate: Candidate
    threshold: float  # similarity from which the candidate may be named
    margin: float  # by which it must be ahead of the next person
    collection: str  # name of the collection


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision on one face."""

    decision: Decision
    named: Listed | None  # the person, when identified


def judge(lists: Sequence[Sequence[Listed]]) -> list[Judgement]:
    """The judgement on each face of one picture, from their candidate lists (best first).

    One person cannot be two faces of a picture. The most similar face keeps the name (`claims`);
    another face takes its next candidate at or above the threshold, or is `unknown`.

    For a single face this is `decide`: `ambiguous` when another person is less than the margin
    behind, or is more similar but below the threshold of its own collection. A rival does not count
    when another face has claimed it and is more similar by the margin.
    """
    claimed = claims(lists)
    return [_judgement(lists, claimed, face) for face in range(len(lists))]


def claims(lists: Sequence[Sequence[Listed]]) -> list[int | None]:
    """For each face the index in its list of the person that it may be named; None: nobody.

    Each face gets at most one person and each person at most one face. Of all such assignments
    this one has the lexicographically greatest similarities, sorted from the best down. So no face
    loses its name to a less similar face, as it might under the greatest sum. Both sides prefer
    the higher similarity, so taking the best remaining pair finds the only stable matching (Gale
    and Shapley, "College Admissions and the Stability of Marriage", 1962). Equal similarities go
    to the first face.
    """
    pairs = sorted(
        (-listed.candidate.similarity, face, position)
        for face, candidates in enumerate(lists)
        for position, listed in enumerate(candidates)
        if listed.candidate.similarity >= listed.threshold
    )
    claimed: list[int | None] = [None] * len(lists)
    taken: set[int] = set()
    for _, face, position in pairs:
        person = lists[face][position].candidate.person_number
        if claimed[face] is None and person not in taken:
            claimed[face] = position
            taken.add(person)
    return claimed


def _judgement(
    lists: Sequence[Sequence[Listed]], claimed: Sequence[int | None], face: int
) -> Judgement:
    position = claimed[face]
    if position is None:
        return Judgement("unknown", None)
    named = lists[face][position]
    claims_of_others = {  # similarity by person
        other[taken].candidate.person_number: other[taken].candidate.similarity
        for index, (other, taken) in enumerate(zip(lists, claimed, strict=True))
        if taken is not None and index != face
    }
    for rival in (listed for listed in lists[face] if listed is not named):
        similarity, margin = rival.candidate.similarity, max(named.margin, rival.margin)
        claim = claims_of_others.get(rival.candidate.person_number)
        is_excluded = claim is not None and claim - similarity >= margin
        if not is_excluded and named.candidate.similarity - similarity < margin:
            return Judgement("ambiguous", None)
    return Judgement("identified", named)
