"""People whose similarities have known distributions."""

from datetime import UTC, datetime
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest

from match_server.calibration.calibration import Calibration
from match_server.calibration.comparisons import Comparisons, Moments, compare
from match_server.calibration.grid import BINS, edges
from match_server.evaluation.measurement import measure

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def expected_counts(total: int, mean: float, sd: float) -> np.ndarray:
    """Returns the expected counts of each bin for `total` draws of a normal distribution."""
    below = np.array([NormalDist(mean, sd).cdf(float(edge)) for edge in edges()])
    return np.round(total * np.diff(below)).astype(np.int64)


def compared_counts(genuine: np.ndarray, impostor: np.ndarray, persons: int = 40) -> Comparisons:
    """Returns comparisons with these counts, spread evenly over so many persons."""
    spread = np.zeros((persons, BINS), dtype=np.int64)
    spread[:] = genuine // persons
    spread[0] += genuine % persons
    pairs = persons * (persons - 1) // 2
    between = np.zeros((persons, persons, BINS), dtype=np.int64)
    upper = np.triu_indices(persons, 1)
    between[upper] = impostor // pairs
    order = np.random.default_rng(0).permutation(pairs)
    for place, rest in enumerate(impostor % pairs):
        chosen = order[:rest]
        between[upper[0][chosen], upper[1][chosen], place] += 1
    middles = edges()[:-1] + np.diff(edges()) / 2
    return Comparisons(
        genuine=spread,
        impostor=between,
        genuine_moments=_moments(genuine, middles),
        impostor_moments=_moments(impostor, middles),
        persons=persons,
        persons_mated=persons,
        pictures=persons,
        groups=np.arange(persons),
        mated_best=np.full(persons, 0.6, dtype=np.float32),
        impostor_best=np.full(persons, 0.2, dtype=np.float32),
        lookalikes=(),
        unlike=(),
    )


def _moments(counts: np.ndarray, middles: np.ndarray) -> Moments:
    total = counts.sum()
    mean = (counts * middles).sum() / total
    spread = ((counts * (middles - mean) ** 2).sum() / total) ** 0.5
    return Moments(int(total), float(mean), float(spread))


def calibrated(compared: Comparisons, model_id: str = "some@1"):
    return measure(compared, model_id=model_id, gate="doorway", refused=0, now=NOW).file


def faces(seed: int, persons: int, each: int, dimension: int = 128) -> tuple:
    """Returns templates (persons * each, dimension) with a decaying spectrum, and their persons."""
    random = np.random.default_rng(seed)
    spectrum = np.exp(-2.0 * np.arange(dimension) / dimension)
    own = random.standard_normal((persons, dimension)) * spectrum
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    noise = random.standard_normal((persons * each, dimension)) * spectrum
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    rows = 0.8 * np.repeat(own, each, axis=0) + 0.6 * noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16), np.repeat(np.arange(persons), each)


@pytest.fixture(scope="session")
def people() -> SimpleNamespace:
    """The functions of this module, because tests cannot import each other."""
    return SimpleNamespace(
        expected_counts=expected_counts,
        compared_counts=compared_counts,
        calibrated=calibrated,
        compare=compare,
        calibration=Calibration,
        faces=faces,
    )


@pytest.fixture(scope="session")
def normal_calibration(people):
    """Returns a function that makes a calibration: genuine 0.6 ± 0.1, impostor 0 ± 0.07."""
    genuine = people.expected_counts(50_000, 0.6, 0.1)
    impostor = people.expected_counts(1_000_000, 0.0, 0.07)
    measured = people.calibrated(people.compared_counts(genuine, impostor))

    def of(model_id="some@1"):
        file = measured.model_copy(update={"model_id": model_id})
        return file.model_copy(update={"sha256": file.digest()})

    return of


@pytest.fixture(scope="session")
def normal(normal_calibration):
    """The calibration of `normal_calibration`, prepared for lookups."""
    return Calibration(normal_calibration())
