"""From the gallery's best templates to a candidate list of persons."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select

from match_server.db.database import Reader
from match_server.db.tables import Person, Template
from match_server.services.lookups import VARIABLES, batches, is_expired
from match_server.services.policy.candidates import Candidate
from shared.decision import as_cosine
from shared.gallery import Candidates, MemoryIndex


@dataclass(frozen=True, slots=True)
class _Enrolled:
    person_number: int
    person_id: str
    person_name: str
    template_id: str


TEMPLATES_A_PERSON = 4  # requested from the gallery for each person at first
_LEAST_LOOKUPS = 16


def rank_persons(
    reader: Reader,
    gallery: MemoryIndex,
    probes: NDArray[np.float32],  # (n, dimension) unit rows
    limit: int,
    now: datetime,
    *,
    among: NDArray[np.uint64] | None = None,  # numbers of the templates that may be found
    at_least: float = -1.0,  # similarity below which no candidate is needed
    first_hits: list[Candidates] | None = None,
) -> list[list[Candidate]]:
    """The `limit` persons most similar to each probe: each once, by the best of their templates.

    Erased and expired persons are left out. When that, or persons with many templates, make a list
    too short, the gallery is searched again for a longer one, until the list is full or the
    gallery exhausted. `at_least` shortens the scan. `first_hits` are the hits of an earlier search,
    e.g. from outside a write lock.
    """
    ask = limit * TEMPLATES_A_PERSON
    lists = (
        gallery.search(probes, ask, threshold=at_least, among=among)
        if first_hits is None
        else first_hits
    )
    ranked = [_persons(reader, hits, limit, now) for hits in lists]
    size = len(gallery) if among is None else len(among)
    while ask < size:
        unfilled = [
            row
            for row, persons in enumerate(ranked)
            if len(persons) < limit and len(lists[row]) >= ask
        ]
        if not unfilled:
            break
        ask = min(ask * 4, size)
        longer = gallery.search(probes[unfilled], ask, threshold=at_least, among=among)
        for row, hits in zip(unfilled, longer, strict=True):
            lists[row] = hits
            ranked[row] = _persons(reader, hits, limit, now)
    return ranked


def _persons(reader: Reader, hits: Candidates, limit: int, now: datetime) -> list[Candidate]:
    best: dict[int, Candidate] = {}  # by person; the first hit of each is the best
    numbers, similarities = hits.ids.tolist(), hits.similarities.tolist()
    start, portion = 0, max(2 * limit, _LEAST_LOOKUPS)  # often enough: most have few templates
    while start < len(numbers) and len(best) < limit:
        end = start + min(portion, VARIABLES)
        by_number = _enrolled(reader, numbers[start:end], now)
        for number, similarity in zip(numbers[start:end], similarities[start:end], strict=True):
            enrolled = by_number.get(number)
            if enrolled is not None and enrolled.person_number not in best:
                best[enrolled.person_number] = Candidate(
                    person_number=enrolled.person_number,
                    person_id=enrolled.person_id,
                    person_name=enrolled.person_name,
                    template_id=enrolled.template_id,
                    similarity=as_cosine(similarity),
                )
        start, portion = end, 4 * portion
    return list(best.values())[:limit]


def all_present(reader: Reader, candidates: Iterable[Candidate], now: datetime) -> bool:
    """Whether every candidate still exists unchanged: template, person and name."""
    expected = {
        (candidate.template_id, candidate.person_number, candidate.person_name)
        for candidate in candidates
    }
    present = set()
    for portion in batches(list({template for template, _, _ in expected})):
        for template_id, person_number, name, expires_at in reader.execute(
            _PRESENT, {"templates": list(portion)}
        ):
            if not is_expired(expires_at, now):
                present.add((template_id, person_number, name))
    return present == expected


_PRESENT = (
    select(Template.id, Person.number, Person.name, Person.expires_at)
    .join(Person, Person.number == Template.person_number)
    .where(Template.id.in_(bindparam("templates", expanding=True)))
)
_ENROLLED = (
    select(Template.number, Template.id, Person.number, Person.id, Person.name, Person.expires_at)
    .join(Person, Person.number == Template.person_number)
    .where(Template.number.in_(bindparam("numbers", expanding=True)))
)


def _enrolled(reader: Reader, numbers: list[int], now: datetime) -> dict[int, _Enrolled]:
    """The persons of these templates, without erased and expired ones."""
    return {
        number: _Enrolled(person_number, person_id, name, template_id)
        for number, template_id, person_number, person_id, name, expires_at in reader.execute(
            _ENROLLED, {"numbers": numbers}
        )
        if not is_expired(expires_at, now)
    }
