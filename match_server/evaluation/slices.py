"""Error rates by enrolled pictures, fused shots, quality, face size and groups of people."""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.comparisons import Comparisons
from match_server.evaluation.folder import ReadFolder
from match_server.evaluation.rates import share_interval
from match_server.schemas.base import ApiModel
from shared.errors import ConfigurationError

SHOTS = (1, 2, 3)
FPIR = 0.01
_SIZES = (0, 60, 90, 120, 200, 100_000)  # pixels of a face's side
_MOST_ENROLLED = 4
_CHUNK = 512

Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]


class Slice(ApiModel):
    """Error rates of the searches with some of the pictures, among all others, at a threshold."""

    by: str  # enrolled pictures, fused shots, quality, face size, or `group`
    value: str
    pictures: int
    persons: int
    fpir: float | None  # None: no search of that kind
    fpir_low: float | None
    fpir_high: float | None
    fnir: float | None  # rank 1
    fnir_low: float | None
    fnir_high: float | None


def read_groups(path: Path) -> dict[str, str]:
    """Returns the group of each person's folder, from a CSV with columns `person` and `group`.

    Raises ConfigurationError for another file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"person", "group"} <= set(reader.fieldnames or ()):
                raise ConfigurationError(
                    f"{path} has the columns {', '.join(reader.fieldnames or ())}; it needs "
                    "`person` (a folder's name) and `group`"
                )
            return {row["person"]: row["group"] for row in reader if row["group"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read as CSV: {error}") from error


def slices_of(
    read: ReadFolder, compared: Comparisons, threshold: float, groups: Mapping[str, str]
) -> list[Slice]:
    """Returns all slices at this threshold. Raises ConfigurationError if no group has a folder."""
    unknown = sorted(set(groups) - set(read.names))
    if groups and len(unknown) == len(groups):
        raise ConfigurationError(f"no folder is named as in the groups, e.g. {unknown[0]!r}")
    rows = list(_enrolled(read)) + list(_qualities(read)) + list(_face_sizes(read))
    labels = np.array([groups.get(name, "") for name in read.names])[read.persons]
    rows += [("group", label, labels == label) for label in sorted(set(labels.tolist()) - {""})]
    slices = [
        _slice(
            by, value, mask, read.persons, compared.mated_best, compared.impostor_best, threshold
        )
        for by, value, mask in rows
        if mask.any()
    ]
    fused = [_fused(read, shots, threshold) for shots in SHOTS]
    return slices + [part for part in fused if part is not None]


def _enrolled(read: ReadFolder) -> Iterator[tuple[str, str, Bools]]:
    """Yields the pictures by the number of other pictures of the person, which are searched."""
    others = np.bincount(read.persons)[read.persons] - 1
    for number in range(1, _MOST_ENROLLED + 1):
        last = number == _MOST_ENROLLED
        mask = others >= number if last else others == number
        yield "enrolled pictures", f"{number} or more" if last else str(number), mask


def _qualities(read: ReadFolder) -> Iterator[tuple[str, str, Bools]]:
    low, high = np.quantile(read.qualities, [1 / 3, 2 / 3])
    score = read.qualities
    yield "quality", f"lowest third, below {low:.2f}", score < low
    yield "quality", f"middle third, {low:.2f} to {high:.2f}", (score >= low) & (score < high)
    yield "quality", f"highest third, from {high:.2f}", score >= high


def _face_sizes(read: ReadFolder) -> Iterator[tuple[str, str, Bools]]:
    for low, high in itertools.pairwise(_SIZES):
        words = f"from {low} px" if high == _SIZES[-1] else f"{low} to {high} px"
        yield "face size", words, (read.sides >= low) & (read.sides < high)


def _fused(read: ReadFolder, shots: int, threshold: float) -> Slice | None:
    """Returns the rates of searches with the mean of so many pictures of a person."""
    random = np.random.default_rng(0)
    tracks: list[Numbers] = []
    for person in range(len(read.names)):
        places = random.permutation(np.flatnonzero(read.persons == person))
        tracks += [places[at : at + shots] for at in range(0, len(places) - shots + 1, shots)]
    if not tracks:
        return None
    mated = np.full(len(tracks), np.nan, np.float32)
    other = np.full(len(tracks), np.nan, np.float32)
    gallery = read.rows.astype(np.float32)
    for start in range(0, len(tracks), _CHUNK):
        some = tracks[start : start + _CHUNK]
        means = np.stack([gallery[track].mean(axis=0) for track in some])
        tile = (means / np.linalg.norm(means, axis=1, keepdims=True)) @ gallery.T
        for row, track in enumerate(some):
            same = read.persons == read.persons[track[0]]
            other[start + row] = tile[row][~same].max(initial=-1.0)
            same[track] = False
            if same.any():
                mated[start + row] = tile[row][same].max()
    persons = np.array([read.persons[track[0]] for track in tracks], np.int64)
    everything = np.ones(len(tracks), dtype=np.bool_)
    return _slice("fused shots", str(shots), everything, persons, mated, other, threshold)


def _slice(
    by: str,
    value: str,
    mask: Bools,
    persons: Numbers,
    mated: NDArray[np.float32],
    other: NDArray[np.float32],
    threshold: float,
) -> Slice:
    strangers, mates = mask & ~np.isnan(other), mask & ~np.isnan(mated)
    named = other >= threshold
    missed = (mated < threshold) | (mated < other)
    fpir = _rate(named[strangers], persons[strangers])
    fnir = _rate(missed[mates], persons[mates])
    return Slice(
        by=by,
        value=value,
        pictures=int(mask.sum()),
        persons=len(np.unique(persons[mask])),
        fpir=fpir[0],
        fpir_low=fpir[1],
        fpir_high=fpir[2],
        fnir=fnir[0],
        fnir_low=fnir[1],
        fnir_high=fnir[2],
    )


def _rate(hits: Bools, persons: Numbers) -> Sequence[float | None]:
    if not hits.size:
        return None, None, None
    return float(hits.mean()), *share_interval(hits, persons)
