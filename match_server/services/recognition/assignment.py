"""Who is who in one picture: every person is named once, judged over all faces together."""

from collections.abc import Sequence
from dataclasses import dataclass

from match_server.schemas.base import Decision
from match_server.services.recognition.candidates import Candidate


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of a candidate list with the operating point of the collection that it is from."""

    candidate: Candidate
    threshold: float  # similarity from which the candidate may be named
    margin: float  # by which it must be ahead of the next person
    collection: str  # name of the collection


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one face."""

    decision: Decision
    named: Listed | None  # who it is, when identified


def judge(lists: Sequence[Sequence[Listed]]) -> list[Verdict]:
    """The verdict on each face of one picture, from their candidate lists (best first).

    One person cannot be two faces of a picture. The face that is most alike keeps a name
    (`claims`), another takes its next candidate from the threshold up, or is `unknown`.

    Of one face alone this is `decide`: `ambiguous` when another person is less than the margin
    behind, or is more alike but below the threshold of its own collection. A rival is out of the
    running when another face has claimed it that is more alike by the margin.
    """
    claimed = claims(lists)
    return [_verdict(lists, claimed, face) for face in range(len(lists))]


def claims(lists: Sequence[Sequence[Listed]]) -> list[int | None]:
    """For each face the place in its list of the person that it may be named; None: nobody.

    Among all ways to give each face at most one person, each person to at most one face, it is the
    one whose similarities, sorted from the best down, are greatest in the order of a dictionary.
    So no face loses its name to one that is less alike, as it might under the greatest sum. As
    both sides want the same (similarity), taking the best pair that is left finds it: Gale and
    Shapley, "College Admissions and the Stability of Marriage", 1962, has but one solution here.
    Equal similarities go to the face that comes first.
    """
    pairs = sorted(
        (-one.candidate.similarity, face, place)
        for face, candidates in enumerate(lists)
        for place, one in enumerate(candidates)
        if one.candidate.similarity >= one.threshold
    )
    claimed: list[int | None] = [None] * len(lists)
    taken: set[int] = set()
    for _, face, place in pairs:
        person = lists[face][place].candidate.person_number
        if claimed[face] is None and person not in taken:
            claimed[face] = place
            taken.add(person)
    return claimed


def _verdict(
    lists: Sequence[Sequence[Listed]], claimed: Sequence[int | None], face: int
) -> Verdict:
    place = claimed[face]
    if place is None:
        return Verdict("unknown", None)
    named = lists[face][place]
    claims_of_others = {  # similarity by person
        other[taken].candidate.person_number: other[taken].candidate.similarity
        for index, (other, taken) in enumerate(zip(lists, claimed, strict=True))
        if taken is not None and index != face
    }
    for rival in (one for one in lists[face] if one is not named):
        similarity, margin = rival.candidate.similarity, max(named.margin, rival.margin)
        claim = claims_of_others.get(rival.candidate.person_number)
        out_of_the_running = claim is not None and claim - similarity >= margin
        if not out_of_the_running and named.candidate.similarity - similarity < margin:
            return Verdict("ambiguous", None)
    return Verdict("identified", named)
