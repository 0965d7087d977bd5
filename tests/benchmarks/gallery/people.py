"""Made-up embeddings: people with five templates each, on a chosen spectrum."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIMENSION = 512
PER_PERSON = 5
SPECTRA = {"isotropic": 0.0, "middling": 0.28, "decaying": 0.325}
"""Exponent of each spectrum: coordinate i has standard deviation i^-e. The similarities of
strangers then have standard deviations of 0.044, 0.066 and 0.080."""
_NOISE = 0.75  # of a template, relative to its person: mated similarities are near 0.64
_STRETCH = 50_000

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """A gallery's templates and probes, half of them of people who are in it."""

    spectrum: str
    rows: Rows  # (n, 512) unit, and exact in float16
    probes: Rows  # (p, 512) unit


def people(count: int, spectrum: str, probes: int, seed: int = 0) -> People:
    rng = np.random.default_rng(seed)
    scale = (np.arange(1, DIMENSION + 1) ** -SPECTRA[spectrum]).astype(np.float32)
    scale /= np.linalg.norm(scale)
    rows = np.empty((count, DIMENSION), dtype=np.float32)
    mated = np.sort(rng.choice(count // PER_PERSON, probes // 2, replace=False))
    enrolled = []
    for start, stop in _stretches(count):
        persons = _noise(rng, (stop - start) // PER_PERSON, scale)
        first = start // PER_PERSON
        inside = mated[(mated >= first) & (mated < first + persons.shape[0])] - first
        enrolled.append(persons[inside] + _NOISE * _noise(rng, inside.shape[0], scale))
        block = np.repeat(persons, PER_PERSON, axis=0)
        block += _NOISE * _noise(rng, block.shape[0], scale)
        rows[start:stop] = _unit(block).astype(np.float16)
    strangers = _noise(rng, probes - probes // 2, scale)
    strangers += _NOISE * _noise(rng, strangers.shape[0], scale)
    mixed = np.concatenate([*enrolled, strangers])
    return People(spectrum, rows, _unit(mixed[rng.permutation(mixed.shape[0])]))


def _stretches(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _STRETCH):
        yield start, min(start + _STRETCH, count)


def _noise(rng: np.random.Generator, count: int, scale: Rows) -> Rows:
    noise: Rows = rng.standard_normal((count, DIMENSION), dtype=np.float32) * scale
    return noise


def _unit(rows: Rows) -> Rows:
    unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Brute force in double precision: the ten best of each probe."""

    ids: NDArray[np.int64]  # (p, 10), best first, ties by id
    similarities: NDArray[np.float64]  # (p, 10)


def truth(everybody: People, limit: int = 10) -> Truth:
    """Compared with every row, in double precision, some rows at a time."""
    probes = everybody.probes.astype(np.float64)
    ids = np.zeros((probes.shape[0], 0), dtype=np.int64)
    best = np.zeros((probes.shape[0], 0))
    for start in range(0, everybody.rows.shape[0], _STRETCH):
        block = everybody.rows[start : start + _STRETCH].astype(np.float64)
        result = probes @ block.T
        best = np.concatenate([best, result], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + block.shape[0]), result.shape)
        ids = np.concatenate([ids, numbers], axis=1)
        kept = np.argpartition(-best, min(limit, best.shape[1] - 1), axis=1)[:, :limit]
        best = np.take_along_axis(best, kept, axis=1)
        ids = np.take_along_axis(ids, kept, axis=1)
    order = np.lexsort((ids, -best), axis=1)
    return Truth(np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1))
