"""Checks that the pictures of a person show the same person; outliers are refused.

Pictures are compared with the mean of the person's references, which is as good as the best of
several (decision 34), and with each other where there are no references yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from match_server.schemas.persons import PersonName
from match_server.services.policy.operating_point import OperatingPoint
from shared.errors import UnlikePerson

UNLIKE_FNMR = 0.002
"""Share of comparisons of one person that are below the limit, by the calibration."""

UNLIKE_FMR = 0.01
"""Share of strangers that may reach the limit: wrong labels among the pictures of the calibration
must not lower it further."""

_WITHOUT_CALIBRATION = 0.5  # of the threshold in use

Rows = NDArray[np.float32]  # (n, dimension) unit rows


@dataclass(frozen=True, slots=True)
class Unlike:
    """A picture that shows another person than the others, or may do so."""

    similarity: float  # with the person, or with the most similar of the other pictures
    undecided: bool  # it cannot be decided which of the pictures are wrong

    def error(
        self,
        name: str,
        limit: float,
        person: PersonName | None,
        lookalike: PersonName | None,
    ) -> UnlikePerson:
        """The error, with the similarity, the limit and, if known, the lookalike."""
        details: dict[str, JsonValue] = {
            "similarity": round(self.similarity, 4),
            "limit": round(limit, 4),
        }
        if person is not None:
            details["person"] = person.model_dump()
        if lookalike is not None:
            details["lookalike"] = lookalike.model_dump()
        if self.undecided:
            message = (
                f"the pictures of {name!r} do not show one person (similarity "
                f"{self.similarity:.2f}, at least {limit:.2f} is asked), and which are the right "
                "ones cannot be told: take out the wrong ones"
            )
        else:
            message = (
                f"the picture is unlike the other pictures of {name!r} (similarity "
                f"{self.similarity:.2f}, at least {limit:.2f} is asked): it may show somebody "
                "else; take it out"
            )
        if lookalike is not None:
            message = f"{message} (it is alike to {lookalike.name!r})"
        return UnlikePerson(f"{message}, or pass force=1", **details)


def unlike_limit(point: OperatingPoint) -> float:
    """The similarity below which a picture is unlike the person, by the calibration in use."""
    if point.calibration is None:
        return _WITHOUT_CALIBRATION * point.threshold
    by_fnmr = point.calibration.threshold_of_fnmr(UNLIKE_FNMR)
    return max(by_fnmr, point.calibration.threshold_for(UNLIKE_FMR).similarity)


def outliers(pictures: Rows, references: Rows, limit: float) -> list[Unlike | None]:
    """For each of n new pictures of one person an `Unlike`; None: it fits the others.

    Pictures are compared with the references. Without references they are compared with the largest
    set of similar pictures; where two sets are equally large, all pictures are undecided.
    """
    if len(pictures) == 0:
        return []
    if len(references):
        return _against(pictures, references, limit)
    if len(pictures) == 1:
        return [None]
    alike = pictures.astype(np.float64) @ pictures.astype(np.float64).T
    sets = [np.flatnonzero(row >= limit) for row in alike]
    core = max(sets, key=lambda rows: (len(rows), alike[np.ix_(rows, rows)].sum()))
    others = np.setdiff1d(np.arange(len(pictures)), core)
    if len(others) and max(len(np.intersect1d(sets[row], others)) for row in others) >= len(core):
        np.fill_diagonal(alike, -1.0)
        return [Unlike(float(row.max()), undecided=True) for row in alike]
    return _against(pictures, pictures[core], limit)


def _against(pictures: Rows, references: Rows, limit: float) -> list[Unlike | None]:
    similarities = similarities_to(pictures, references)
    return [
        None if similarity >= limit else Unlike(similarity, undecided=False)
        for similarity in similarities
    ]


def similarities_to(pictures: Rows, references: Rows) -> list[float]:
    """The similarity of each picture to a person: the cosine with the mean of the references."""
    mean = references.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:  # references that cancel each other out: compare with the best of them
        best: list[float] = (pictures.astype(np.float64) @ references.T).max(axis=1).tolist()
        return best
    similarities: list[float] = (pictures.astype(np.float64) @ (mean / length)).tolist()
    return similarities
