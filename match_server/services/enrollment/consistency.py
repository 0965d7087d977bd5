"""Whether the pictures of one person show one person: the odd one out is named, not enrolled.

Pictures are compared with the person's references by the mean of these, which is as good as the
best of several (decision 34), and with each other where there are no references yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from match_server.schemas.persons import PersonName
from match_server.services.recognition.operating_point import OperatingPoint
from shared.errors import UnlikePerson

UNLIKE_FNMR = 0.002
"""Share of comparisons of one person that are below the limit, by the calibration."""

UNLIKE_FMR = 0.01
"""No more strangers than this may reach the limit, whatever wrong labels among the pictures of
the calibration do to its lowest similarities of one person."""

_WITHOUT_CALIBRATION = 0.5  # of the threshold in use

Rows = NDArray[np.float32]  # (n, dimension) unit rows


@dataclass(frozen=True, slots=True)
class Unlike:
    """A picture that shows somebody else than the others, or may do so."""

    similarity: float  # with the person, or with the most alike of the other pictures
    undecided: bool  # which of the pictures are the wrong ones cannot be told

    def error(
        self,
        name: str,
        limit: float,
        person: PersonName | None,
        lookalike: PersonName | None,
    ) -> UnlikePerson:
        """The refusal, naming the similarity, the limit and, where known, who it is instead."""
        details: dict[str, JsonValue] = {
            "similarity": round(self.similarity, 4),
            "limit": round(limit, 4),
        }
        if person is not None:
            details["person"] = person.model_dump()
        if lookalike is not None:
            details["lookalike"] = lookalike.model_dump()
        if self.undecided:
            said = (
                f"the pictures of {name!r} do not show one person (similarity "
                f"{self.similarity:.2f}, at least {limit:.2f} is asked), and which are the right "
                "ones cannot be told: take out the wrong ones"
            )
        else:
            said = (
                f"the picture is unlike the other pictures of {name!r} (similarity "
                f"{self.similarity:.2f}, at least {limit:.2f} is asked): it may show somebody "
                "else; take it out"
            )
        if lookalike is not None:
            said = f"{said} (it is alike to {lookalike.name!r})"
        return UnlikePerson(f"{said}, or pass force=1", **details)


def unlike_limit(point: OperatingPoint) -> float:
    """The similarity below which a picture is unlike the person, by the calibration in use."""
    if point.calibration is None:
        return _WITHOUT_CALIBRATION * point.threshold
    of_one_person = point.calibration.threshold_of_fnmr(UNLIKE_FNMR)
    return max(of_one_person, point.calibration.threshold_for(UNLIKE_FMR).similarity)


def odd_ones(pictures: Rows, references: Rows, limit: float) -> list[Unlike | None]:
    """For each of n new pictures of one person what speaks against it; None: nothing.

    With references, these say who the person is. Without, the largest set of pictures that are
    alike does, whatever their order; where two sets are equally large, none is believed.
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
    """How alike each picture is to a person: the cosine with the mean of the references."""
    mean = references.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:  # references that cancel each other out: the best of them says more
        best: list[float] = (pictures.astype(np.float64) @ references.T).max(axis=1).tolist()
        return best
    found: list[float] = (pictures.astype(np.float64) @ (mean / length)).tolist()
    return found
