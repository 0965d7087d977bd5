"""Galleries drawn from a folder, searched by everybody else; the product's own code decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from edge_agent.vision.fusion import fuse
from match_server.calibration.calibration import Calibration
from match_server.evaluation.rates import share_interval
from match_server.schemas.base import Decision
from match_server.schemas.collections import stored_policy
from match_server.services.collection_ref import CollectionRef
from match_server.services.policy.operating_point import (
    OperatingPoint,
    Traffic,
    operating_point,
)
from shared.decision import decide
from shared.wire.template import Template
from tests.benchmarks.accuracy.pictures import Faces, Picture, Rows

Pictures = dict[int, list[Picture]]  # by person
Json = dict[str, JsonValue]

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Likeness:
    """One line of a candidate list."""

    person: int
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Who is enrolled, by which rows."""

    rows: Rows
    persons: NDArray[np.int64]  # (n,) of each row
    number: int  # of persons

    def top_two(
        self, probes: Rows, without: NDArray[np.int64] | None = None
    ) -> list[list[Likeness]]:
        """The two persons most alike each probe; `without` leaves out one person for each."""
        lists = []
        for start in range(0, len(probes), _CHUNK):
            some = probes[start : start + _CHUNK] @ self.rows.T
            if without is not None:
                own = without[start : start + _CHUNK, None] == self.persons[None, :]
                some[own] = -2.0
            lists += [self._two_of(row) for row in some]
        return lists

    def _two_of(self, similarities: NDArray[np.float32]) -> list[Likeness]:
        first = int(similarities.argmax())
        person, best = int(self.persons[first]), float(similarities[first])
        others = np.where(self.persons == person, np.float32(-2.0), similarities)
        second = int(others.argmax())
        lines = [Likeness(person, best), Likeness(int(self.persons[second]), float(others[second]))]
        return [line for line in lines if line.similarity >= -1.0]


@dataclass(slots=True)
class Share:
    """How often something happened, by person; its interval is a bootstrap over persons."""

    hits: dict[int, list[float]] = field(default_factory=dict)

    def add(self, person: int, hit: bool) -> None:
        self.hits.setdefault(person, []).append(float(hit))

    @property
    def searches(self) -> int:
        return sum(len(hits) for hits in self.hits.values())

    @property
    def persons(self) -> int:
        return len(self.hits)

    @property
    def rate(self) -> float:
        return sum(sum(hits) for hits in self.hits.values()) / max(1, self.searches)

    def interval(self) -> tuple[float, float]:
        """95 %; where nothing happened the upper end is the rule of three over persons."""
        persons = [person for person, hits in self.hits.items() for _ in hits]
        everything = [hit for hits in self.hits.values() for hit in hits]
        return share_interval(np.array(everything), np.array(persons, np.int64))


def by_person(pictures: Iterable[Picture]) -> Pictures:
    people: Pictures = {}
    for picture in pictures:
        people.setdefault(picture.person, []).append(picture)
    return people


def enrollable(pictures: Iterable[Picture]) -> list[Picture]:
    """The pictures that the server enrolls without `force`: those that pass the gate."""
    return [picture for picture in pictures if picture.look.passed]


def enroll(faces: Faces, chosen: Pictures) -> Gallery:
    pictures = [picture for some in chosen.values() for picture in some]
    return Gallery(
        faces.vectors(pictures),
        np.array([picture.person for picture in pictures], np.int64),
        len(chosen),
    )


def fused(faces: Faces, shots: Sequence[Picture]) -> NDArray[np.float32]:
    """The template of these shots of one track, fused as a box does."""
    rows = faces.vectors(shots)
    return (
        fuse(
            [
                (shot.look.quality, Template(faces.model_id, row))
                for shot, row in zip(shots, rows, strict=True)
            ]
        )
        .vector.astype(np.float16)
        .astype(np.float32)
    )  # as it travels


def point_of(
    policy: Json, calibration: Calibration | None, persons: int, templates: int, model_id: str
) -> OperatingPoint:
    """The operating point that the server derives for a collection of this size."""
    scope = CollectionRef(
        number=1,
        name="bench",
        model_id=model_id,
        dimension=0,
        generation=1,
        encrypted=False,
        policy=stored_policy(policy),
        created_at=datetime.now(UTC),
        calibration=None,
        templates=templates,
        persons=persons,
    )
    return operating_point(scope, calibration, Traffic(None, None))


def verdict(point: OperatingPoint, candidates: Sequence[Likeness]) -> tuple[Decision, int | None]:
    """Returns the server's decision on a candidate list, and the person named."""
    decision = decide(candidates, point.threshold, point.margin)
    return decision, candidates[0].person if decision == "identified" else None
