"""FNIR by the number of enrolled pictures and of fused shots, at a measured FPIR."""

from dataclasses import dataclass

import numpy as np

from tests.benchmarks.accuracy.bench import NEW, Bench
from tests.benchmarks.accuracy.pictures import Picture, Rows
from tests.benchmarks.accuracy.policies import percent
from tests.benchmarks.accuracy.trials import (
    Gallery,
    Likeness,
    Pictures,
    Share,
    by_person,
    enroll,
    enrollable,
    fused,
    verdict,
)
from tests.benchmarks.tables import Row

FPIR = 0.01
MOST = 2_000  # people enrolled
CASES = ((1, 1), (2, 1), (3, 1), (1, 3), (2, 3), (3, 3))

_DRAWS = 5
_AIMS = {(3, 3): "≤ 0.5 %"}


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One draw: who is enrolled, with what they are searched, and strangers."""

    gallery: Gallery
    mates: list[tuple[int, list[Likeness]]]  # person, candidate list
    strangers: list[tuple[int, list[Likeness]]]

    def threshold(self, fpir: float) -> float:
        """The lowest threshold at which at most this share of strangers is given a name."""
        best = sorted((candidates[0].similarity for _, candidates in self.strangers), reverse=True)
        allowed = int(fpir * len(best))
        return float(np.nextafter(np.float32(best[allowed]), np.float32(2.0)))


def shot_rows(bench: Bench, pack: str | None = None) -> list[Row]:
    """FNIR at a measured FPIR of 1 %, and under the default policy."""
    rows = [shot_row(bench, enrolled, shots, pack) for enrolled, shots in CASES]
    return [row for row in rows if row is not None]


def shot_row(bench: Bench, enrolled: int, shots: int, pack: str | None = None) -> Row | None:
    """One line: so many pictures enrolled of each mate, so many shots fused into a probe.

    None where nobody has enough pictures.
    """
    missed, false, missed_by_policy, named = Share(), Share(), Share(), Share()
    number = templates = 0
    for draw in range(_DRAWS):
        trial = trial_of(bench, enrolled, shots, draw, pack)
        if trial is None:
            return None
        number, templates = trial.gallery.number, len(trial.gallery.rows)
        threshold = trial.threshold(FPIR)
        point = bench.point(NEW, number, templates, pack)
        for person, candidates in trial.mates:
            first = candidates[0].person == person
            missed.add(person, not (first and candidates[0].similarity >= threshold))
            missed_by_policy.add(person, verdict(point, candidates)[1] != person)
        for person, candidates in trial.strangers:
            named.add(person, verdict(point, candidates)[1] is not None)
            false.add(person, candidates[0].similarity >= threshold)
    return {
        "pack": pack or bench.packs[0],
        "enrolled people": number,
        "pictures each": enrolled,
        "templates": templates,
        "shots": shots,
        "FNIR at FPIR 1 %": percent(missed),
        "aim": _AIMS.get((enrolled, shots), ""),
        "default policy: strangers named": percent(named),
        "no or wrong name": percent(missed_by_policy),
        "people searched": f"{missed.persons:,}",
    }


def trial_of(
    bench: Bench, enrolled: int, shots: int, draw: int, pack: str | None = None
) -> Trial | None:
    """Mates have enough pictures for both; the rest of the gallery has as many as there are.

    None where nobody has enough.
    """
    faces = bench.faces(pack)
    random = np.random.default_rng([enrolled, shots, draw])
    people = by_person(faces.usable(bench.half))
    chosen: Pictures = {}
    probes: Pictures = {}
    for person in random.permutation(sorted(people)).tolist():
        some = [people[person][place] for place in random.permutation(len(people[person]))]
        good = enrollable(some)
        if len(good) < 1 or len(chosen) >= MOST:
            continue
        chosen[person] = good[:enrolled]
        taken = {picture.row for picture in chosen[person]}
        rest = [picture for picture in some if picture.row not in taken]
        if len(good) >= enrolled and len(rest) >= shots:
            probes[person] = rest
    if not probes:
        return None
    gallery = enroll(faces, chosen)

    def searched(
        shown: dict[int, list[list[Picture]]], *, strangers: bool
    ) -> list[tuple[int, list[Likeness]]]:
        persons = [person for person, tracks in shown.items() for _ in tracks]
        tracks = [shots for tracks in shown.values() for shots in tracks]
        rows: Rows = np.stack([fused(faces, track) for track in tracks])
        own = np.array(persons, np.int64) if strangers else None
        return list(zip(persons, gallery.top_two(rows, own), strict=True))

    mates = {person: _tracks(rest, shots) for person, rest in probes.items()}
    others = {person: tracks for person, some in people.items() if (tracks := _tracks(some, shots))}
    return Trial(gallery, searched(mates, strangers=False), searched(others, strangers=True))


def _tracks(pictures: list[Picture], shots: int) -> list[list[Picture]]:
    """The pictures in groups of so many, each of which stands for the shots of a track."""
    return [pictures[at : at + shots] for at in range(0, len(pictures) - shots + 1, shots)]
