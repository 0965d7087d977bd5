"""The old policy beside the default one: strangers named, enrolled people named rightly or not."""

from dataclasses import dataclass, field

import numpy as np

from tests.benchmarks.accuracy.bench import Bench
from tests.benchmarks.accuracy.trials import (
    Pictures,
    Share,
    by_person,
    enroll,
    enrollable,
    verdict,
)
from tests.benchmarks.tables import Row

SIZES = (100, 500, 2_000)
DRAWS = {100: 20, 500: 8}
LEAST_STRANGERS = 100
"""Fewer people outside the gallery: then one enrolled person at a time is left out instead."""

_DRAWS_OF_ALL = 4
_RIGHT_AIM = {500: "≥ 92 %", 2_000: "≥ 89 %"}


@dataclass(slots=True)
class _Counts:
    strangers: Share = field(default_factory=Share)
    right: Share = field(default_factory=Share)
    wrong: Share = field(default_factory=Share)
    thresholds: list[float] = field(default_factory=list)


def policy_rows(bench: Bench) -> list[Row]:
    """One picture enrolled, one shot searched."""
    people = by_person(bench.faces().usable(bench.half))
    enrollees = {person: good for person, some in people.items() if (good := enrollable(some))}
    rows: list[Row] = []
    for size in SIZES:
        everybody = len(enrollees) < size + LEAST_STRANGERS
        number = len(enrollees) if everybody else size
        counts = {name: _Counts() for name in bench.policies}
        for draw in range(_DRAWS_OF_ALL if everybody else DRAWS.get(size, _DRAWS_OF_ALL)):
            random = np.random.default_rng([size, draw])
            inside = sorted(random.permutation(sorted(enrollees))[:number].tolist())
            chosen = {
                person: [enrollees[person][random.integers(len(enrollees[person]))]]
                for person in inside
            }
            _search(bench, people, chosen, counts, leave_out=everybody)
        rows += [_row(name, size, number, one) for name, one in counts.items()]
        if everybody:  # no larger gallery can be made of this folder
            break
    return rows


def _search(
    bench: Bench,
    people: Pictures,
    chosen: Pictures,
    counts: dict[str, _Counts],
    *,
    leave_out: bool,
) -> None:
    faces = bench.faces()
    gallery = enroll(faces, chosen)
    taken = {picture.row for some in chosen.values() for picture in some}
    everybody = [picture for some in people.values() for picture in some]
    mates = [one for one in everybody if one.person in chosen and one.row not in taken]
    strangers = [one for one in everybody if one.person not in chosen]
    if leave_out:
        strangers += [one for one in everybody if one.person in chosen]
    own = np.array([one.person for one in strangers], np.int64)
    result = gallery.top_two(faces.vectors(mates))
    false = gallery.top_two(faces.vectors(strangers), without=own)
    for name, count in counts.items():
        point = bench.point(name, gallery.number, len(gallery.rows))
        count.thresholds.append(point.threshold)
        for picture, candidates in zip(mates, result, strict=True):
            _, named = verdict(point, candidates)
            count.right.add(picture.person, named == picture.person)
            count.wrong.add(picture.person, named not in (picture.person, None))
        for picture, candidates in zip(strangers, false, strict=True):
            count.strangers.add(picture.person, verdict(point, candidates)[1] is not None)


def _row(name: str, size: int, number: int, count: _Counts) -> Row:
    right, wrong = count.right, count.wrong
    new = name != "0.35"
    return {
        "enrolled": number,
        "policy": name,
        "threshold": round(float(np.mean(count.thresholds)), 3),
        "strangers named": percent(count.strangers),
        "aim ": "≤ 1.5 %" if new else "",
        "right name": percent(right),
        "aim": _RIGHT_AIM.get(size, "") if new else "",
        "wrong name": percent(wrong),
        " aim": "≤ 0.2 %" if new else "",
        "no name": f"{100 * (1 - right.rate - wrong.rate):.1f} %",
        "searches of strangers / enrolled": f"{count.strangers.searches:,} / {right.searches:,}",
    }


def percent(share: Share) -> str:
    """The rate with its 95 % interval."""
    low, high = share.interval()
    return f"{100 * share.rate:.2f} % ({100 * low:.2f}–{100 * high:.2f})"
