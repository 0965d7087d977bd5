"""From the gallery's best templates to a candidate list of persons."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select

from match_server.db.database import Reader
from match_server.db.tables import Person, Template
from match_server.services.lookups import batches, is_expired
from match_server.services.recognition.candidates import Candidate
from shared.decision import as_cosine
from shared.gallery import Candidates, Gallery


@dataclass(frozen=True, slots=True)
class _Owner:
    person_number: int
    person_id: str
    person_name: str
    template_id: str


TEMPLATES_A_PERSON = 4  # asked of the gallery for each wanted person, to begin with
_LEAST_OWNERS = 16
_VARIABLES = 500


def rank_persons(
    reader: Reader,
    gallery: Gallery,
    probes: NDArray[np.float32],  # (n, dimension) unit rows
    limit: int,
    now: datetime,
    *,
    among: NDArray[np.uint64] | None = None,  # numbers of the templates that may be found
    at_least: float = -1.0,  # similarity below which nobody is of interest
    found: list[Candidates] | None = None,
) -> list[list[Candidate]]:
    """The `limit` persons most alike each probe: each once, by the best of their templates.

    What the reader cannot see (erased) and who has expired is left out. A list that gets too
    short by that, or by persons with many templates, is asked for again, longer, until it is full
    or the gallery exhausted. With `at_least` there is less to scan for. `found` saves the first
    search when it was made before, e.g. outside a write lock.
    """
    ask = limit * TEMPLATES_A_PERSON
    lists = gallery.search(probes, ask, threshold=at_least, among=among) if found is None else found
    answer = [_persons(reader, one, limit, now) for one in lists]
    size = len(gallery) if among is None else len(among)
    while ask < size:
        short = [
            row
            for row, persons in enumerate(answer)
            if len(persons) < limit and len(lists[row]) >= ask
        ]
        if not short:
            break
        ask = min(ask * 4, size)
        longer = gallery.search(probes[short], ask, threshold=at_least, among=among)
        for row, one in zip(short, longer, strict=True):
            lists[row] = one
            answer[row] = _persons(reader, one, limit, now)
    return answer


def _persons(reader: Reader, hits: Candidates, limit: int, now: datetime) -> list[Candidate]:
    best: dict[int, Candidate] = {}  # by person; the first hit of each is the best
    numbers, similarities = hits.ids.tolist(), hits.similarities.tolist()
    start, portion = 0, max(2 * limit, _LEAST_OWNERS)  # often enough: most have few templates
    while start < len(numbers) and len(best) < limit:
        end = start + min(portion, _VARIABLES)
        owners = _owners(reader, numbers[start:end], now)
        for number, similarity in zip(numbers[start:end], similarities[start:end], strict=True):
            owner = owners.get(number)
            if owner is not None and owner.person_number not in best:
                best[owner.person_number] = Candidate(
                    person_number=owner.person_number,
                    person_id=owner.person_id,
                    person_name=owner.person_name,
                    template_id=owner.template_id,
                    similarity=as_cosine(similarity),
                )
        start, portion = end, 4 * portion
    return list(best.values())[:limit]


def all_present(reader: Reader, candidates: Iterable[Candidate], now: datetime) -> bool:
    """Whether every candidate is still there as it was: template, person and name."""
    wanted = {(one.template_id, one.person_number, one.person_name) for one in candidates}
    present = set()
    for some in batches(list({template for template, _, _ in wanted})):
        for template_id, person_number, name, expires_at in reader.execute(
            _PRESENT, {"templates": list(some)}
        ):
            if not is_expired(expires_at, now):
                present.add((template_id, person_number, name))
    return present == wanted


_PRESENT = (
    select(Template.id, Person.number, Person.name, Person.expires_at)
    .join(Person, Person.number == Template.person_number)
    .where(Template.id.in_(bindparam("templates", expanding=True)))
)
_OWNERS = (
    select(Template.number, Template.id, Person.number, Person.id, Person.name, Person.expires_at)
    .join(Person, Person.number == Template.person_number)
    .where(Template.number.in_(bindparam("numbers", expanding=True)))
)


def _owners(reader: Reader, numbers: list[int], now: datetime) -> dict[int, _Owner]:
    """Whose the templates are, without those that are gone and those who have expired."""
    return {
        number: _Owner(person_number, person_id, name, template_id)
        for number, template_id, person_number, person_id, name, expires_at in reader.execute(
            _OWNERS, {"numbers": numbers}
        )
        if not is_expired(expires_at, now)
    }
