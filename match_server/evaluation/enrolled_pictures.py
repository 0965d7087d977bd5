"""FNIR by the number of enrolled pictures of a person: one, two or three."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from match_server.evaluation.folder import ReadFolder
from match_server.evaluation.slices import FPIR

MOST = 3
_LEAST_PERSONS = 30
_SEED = 0


def fnir_by_enrolled_pictures(read: ReadFolder) -> list[float] | None:
    """Returns FNIR (rank 1) at an FPIR of 1 %, with one, two and three enrolled pictures.

    Each count uses the same persons and searches: persons with more than three pictures are
    enrolled, and searched with the rest of their pictures. Of the other persons, one half is
    enrolled with one picture each, and the pictures of the other half (strangers) set the
    threshold. Returns None where fewer than 30 persons have enough pictures, or there is no
    stranger.
    """
    random = np.random.default_rng(_SEED)
    places = [
        random.permutation(np.flatnonzero(read.persons == person))
        for person in range(len(read.names))
    ]
    many = [own for own in places if len(own) > MOST]
    few = [own for own in places if len(own) <= MOST]
    if len(many) < _LEAST_PERSONS or len(few) < 2:
        return None
    besides = _rows(read, [own[:1] for own in few[::2]])
    gallery = _rows(read, [own[:MOST] for own in many])
    probes = _rows(read, [own[MOST:] for own in many])
    strangers = _rows(read, few[1::2])
    searched = np.repeat(np.arange(len(many)), [len(own) - MOST for own in many])
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
        hits = (best.argmax(axis=1) == searched) & (first >= threshold) & (first > beside_mated)
        missed.append(round(float(1 - hits.mean()), 4))
    return missed


def _rows(read: ReadFolder, places: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    return read.rows[np.concatenate(places)].astype(np.float32)
