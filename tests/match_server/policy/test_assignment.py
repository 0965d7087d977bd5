"""Each person is named once in a picture; compared with brute force over all assignments."""

from itertools import combinations, permutations

import numpy as np
import pytest

from match_server.services.policy.assignment import Listed, claims, judge
from match_server.services.policy.candidates import Candidate, decide


def _list(scores: dict[int, float], *, threshold=0.4, margin=0.0) -> list[Listed]:
    """A candidate list from similarities by person number."""
    best_first = sorted(scores.items(), key=lambda item: -item[1])
    return [
        Listed(Candidate(person, f"id{person}", f"P{person}", "t", score), threshold, margin, "c")
        for person, score in best_first
    ]


def _named(lists):
    return [
        None if judgement.named is None else judgement.named.candidate.person_number
        for judgement in judge(lists)
    ]


def _brute_force(scores: list[dict[int, float]], threshold: float) -> list[int | None]:
    """Of all assignments, the one with the greatest sorted similarities."""
    persons = sorted({person for one in scores for person in one})
    best, chosen = [], [None] * len(scores)
    for size in range(min(len(scores), len(persons)) + 1):
        for faces in combinations(range(len(scores)), size):
            for named in permutations(persons, size):
                pairs = list(zip(faces, named, strict=True))
                if any(scores[face].get(person, -1) < threshold for face, person in pairs):
                    continue
                value = sorted((scores[face][person] for face, person in pairs), reverse=True)
                if value > best:
                    best, chosen = value, [None] * len(scores)
                    for face, person in pairs:
                        chosen[face] = person
    return chosen


@pytest.mark.parametrize("seed", range(200))
def test_names_are_those_that_brute_force_over_all_assignments_finds(seed):
    random = np.random.default_rng(seed)
    faces, persons = int(random.integers(1, 5)), int(random.integers(1, 6))
    scores = [
        {person: float(random.uniform(0.2, 0.9)) for person in range(persons)} for _ in range(faces)
    ]
    lists = [_list(one) for one in scores]
    expected = _brute_force(scores, 0.4)
    places = claims(lists)
    persons_named = [
        None if place is None else lists[face][place].candidate.person_number
        for face, place in enumerate(places)
    ]
    assert persons_named == expected
    assert _named(lists) == expected


def test_the_better_face_keeps_the_name_and_the_other_takes_its_next():
    assert _named([_list({1: 0.8, 2: 0.5}), _list({1: 0.9, 2: 0.6})]) == [2, 1]


def test_a_face_whose_next_candidate_is_below_the_threshold_is_unknown():
    judgements = judge([_list({1: 0.8, 2: 0.39}), _list({1: 0.9})])
    assert [one.decision for one in judgements] == ["unknown", "identified"]


def test_no_face_gives_its_name_away_for_a_greater_sum():
    # 0.5 + 0.8 is more than 0.9 alone, but the first face is certainly person 1.
    assert _named([_list({1: 0.9, 2: 0.5}), _list({1: 0.8})]) == [1, None]


def test_of_equal_similarities_the_first_face_has_the_name():
    assert _named([_list({1: 0.7}), _list({1: 0.7})]) == [1, None]


@pytest.mark.parametrize("seed", range(100))
def test_one_face_alone_is_decided_as_ever(seed):
    random = np.random.default_rng(seed)
    margin = float(random.choice([0.0, 0.05, 0.2]))
    scores = {
        person: float(random.uniform(0.2, 0.8)) for person in range(int(random.integers(0, 5)))
    }
    candidates = _list(scores, margin=margin)
    (judgement,) = judge([candidates])
    assert judgement.decision == decide([one.candidate for one in candidates], 0.4, margin)
    assert (judgement.named is not None) == (judgement.decision == "identified")


def test_lookalikes_are_ambiguous_also_among_several_faces():
    lists = [_list({1: 0.60, 2: 0.58}, margin=0.05), _list({3: 0.9}, margin=0.05)]
    assert [one.decision for one in judge(lists)] == ["ambiguous", "identified"]


def test_a_lookalike_whom_another_face_is_by_far_is_no_rival():
    lists = [_list({1: 0.60, 2: 0.58}, margin=0.05), _list({2: 0.9}, margin=0.05)]
    assert _named(lists) == [1, 2]


def test_a_lookalike_whom_another_face_barely_is_stays_a_rival():
    lists = [_list({1: 0.60, 2: 0.58}, margin=0.05), _list({2: 0.59}, margin=0.05)]
    assert [one.decision for one in judge(lists)] == ["ambiguous", "identified"]


def test_a_candidate_is_judged_by_the_policy_of_its_own_collection():
    strict, lax = _list({1: 0.5}, threshold=0.7), _list({2: 0.6}, threshold=0.4)
    assert _named([[*lax, *strict]]) == [2]
    assert [one.decision for one in judge([strict])] == ["unknown"]


def test_nobody_is_named_while_another_is_more_alike_but_not_enough_for_its_collection():
    strict, lax = _list({1: 0.6}, threshold=0.7), _list({2: 0.5}, threshold=0.4)
    assert [one.decision for one in judge([[*strict, *lax]])] == ["ambiguous"]
