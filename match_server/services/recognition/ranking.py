"""From the gallery's best templates to a candidate list of persons."""

from collections.abc import Iterable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select

from match_server.db.database import Reader
from match_server.db.tables import Person, Template
from match_server.services.lookups import VARIABLES, batches, is_expired
from match_server.services.policy.candidates import Candidate
from match_server.services.recognition.person_cache import PersonLookup
from shared.decision import as_cosine
from shared.gallery import Candidates, MemoryIndex

TEMPLATES_A_PERSON = 4  # requested from the gallery for each person at first, at most
_SPARE = 2  # templates of persons who have expired or were just erased
_LEAST_LOOKUPS = 16


def rank_persons(
    persons_of: PersonLookup,
    gallery: MemoryIndex,
    probes: NDArray[np.float32],  # (n, dimension) unit rows
    limit: int,
    now: datetime,
    *,
    among: NDArray[np.uint64] | None = None,  # numbers of the templates that may be found
    at_least: float = -1.0,  # similarity below which no candidate is needed
    templates_a_person: float = TEMPLATES_A_PERSON,
) -> list[list[Candidate]]:
    """The `limit` persons most similar to each probe: each once, by the best of their templates.

    Erased and expired persons are left out. When that, or persons with many templates, make a list
    too short, the gallery is searched again for a longer one, until the list is full or the
    gallery exhausted. `at_least` shortens the scan, as does `templates_a_person`, their number on
    average: it determines how many templates are requested at first.
    """
    ask = _first_length(limit, templates_a_person)
    lists = gallery.search(probes, ask, threshold=at_least, among=among)
    ranked = [_best_of_persons(persons_of, hits, limit, now) for hits in lists]
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
            ranked[row] = _best_of_persons(persons_of, hits, limit, now)
    return ranked


def _first_length(limit: int, templates_a_person: float) -> int:
    """Templates to request for `limit` persons: one each, and more where persons have several."""
    more = min(2 * max(templates_a_person - 1, 0.0), TEMPLATES_A_PERSON - 1)
    return limit + round(more * limit) + _SPARE


def _best_of_persons(
    persons_of: PersonLookup, hits: Candidates, limit: int, now: datetime
) -> list[Candidate]:
    best: dict[int, Candidate] = {}  # by person; the first hit of each is the best
    numbers, similarities = hits.ids.tolist(), hits.similarities.tolist()
    start, portion = 0, max(2 * limit, _LEAST_LOOKUPS)  # often enough: most have few templates
    while start < len(numbers) and len(best) < limit:
        end = start + min(portion, VARIABLES)
        persons = persons_of(numbers[start:end])
        for number, similarity in zip(numbers[start:end], similarities[start:end], strict=True):
            person = persons.get(number)
            if person is None or person.person_number in best or is_expired(person.expires_at, now):
                continue
            best[person.person_number] = Candidate(
                person.person_number,
                person.person_id,
                person.person_name,
                person.template_id,
                as_cosine(similarity),
            )
            if len(best) == limit:
                break
        start, portion = end, 4 * portion
    return list(best.values())


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
