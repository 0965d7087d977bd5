"""How often a person is missed with one, two or three enrolled pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from match_server.evaluation.folder import ReadFolder
from match_server.evaluation.slices import FPIR

MOST = 3
_LEAST_PERSONS = 30
_SEED = 0


def missed_by_pictures(read: ReadFolder) -> list[float] | None:
    """FNIR (rank 1) at an FPIR of 1 %, with one, two and three pictures enrolled of each person.

    The same persons and searches for each count: who has more than three pictures is enrolled
    and searched by the rest of them. Of everybody else one half is enrolled besides, with one
    picture, and the other half are the strangers whose pictures set the threshold. None where
    fewer than 30 persons have so many pictures, or there is no stranger.
    """
    random = np.random.default_rng(_SEED)
    places = [
        random.permutation(np.flatnonzero(read.persons == one)) for one in range(len(read.names))
    ]
    many = [own for own in places if len(own) > MOST]
    few = [own for own in places if len(own) <= MOST]
    if len(many) < _LEAST_PERSONS or len(few) < 2:
        return None
    besides = _rows(read, [own[:1] for own in few[::2]])
    gallery = _rows(read, [own[:MOST] for own in many])
    probes = _rows(read, [own[MOST:] for own in many])
    strangers = _rows(read, few[1::2])
    owners = np.repeat(np.arange(len(many)), [len(own) - MOST for own in many])
    mated = (probes @ gallery.T).reshape(len(probes), len(many), MOST)
    others = (strangers @ gallery.T).reshape(len(strangers), len(many), MOST)
    beside_mated = (probes @ besides.T).max(axis=1)
    beside_others = (strangers @ besides.T).max(axis=1)
    missed = []
    for count in range(1, MOST + 1):
        named = np.maximum(others[:, :, :count].max(axis=(1, 2)), beside_others)
        threshold = np.quantile(named, 1 - FPIR)
        best = mated[:, :, :count].max(axis=2)
        first = best.max(axis=1)
        found = (best.argmax(axis=1) == owners) & (first >= threshold) & (first > beside_mated)
        missed.append(round(float(1 - found.mean()), 4))
    return missed


def _rows(read: ReadFolder, places: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    return read.rows[np.concatenate(places)].astype(np.float32)
