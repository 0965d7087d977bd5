"""Enrolls many templates straight into the database of a benchmark: far sooner than by HTTP."""

import time
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert

from match_server.container import Services
from match_server.db.tables import Person, Template
from match_server.services.change_feed import record
from match_server.services.lookups import collection_named
from shared.ids import new_id

_CHUNK = 10_000

Vectors = NDArray[np.float32]


def enroll_random(services: Services, n: int, probes: int) -> Vectors:
    """Enrolls n random unit vectors; returns probes: noisy copies and strangers in turn."""
    started_s = time.perf_counter()
    services.first_start()
    random = np.random.default_rng(0)
    for start in range(0, n, _CHUNK):
        vectors = _unit(random.standard_normal((min(_CHUNK, n - start), 512), dtype=np.float32))
        _enroll(services, start, vectors)
        if start == 0:
            some = vectors[: probes // 2]
    noisy = _unit(some + _unit(random.standard_normal(some.shape, dtype=np.float32)))
    strangers = _unit(random.standard_normal((probes // 2, 512), dtype=np.float32))
    print(f"{n} templates enrolled in {time.perf_counter() - started_s:.1f} s")
    return np.stack([noisy, strangers[: noisy.shape[0]]], axis=1).reshape(-1, 512)


def enroll_rows(services: Services, rows: Vectors) -> None:
    """Enrolls unit vectors, a person for each: row 0 is of the person p1."""
    services.first_start()
    for start in range(0, rows.shape[0], _CHUNK):
        _enroll(services, start, rows[start : start + _CHUNK])


def _enroll(services: Services, start: int, vectors: Vectors) -> None:
    """Adds the persons from start + 1 on, each with one template, and one change in the feed."""
    now = datetime.now(UTC)
    rows = vectors.astype("<f2")
    with services.database.write() as session:
        collection = collection_named(session, services.settings.default_collection)
        persons, templates = [], []
        for number, row in enumerate(rows, start=start + 1):
            persons.append(
                {
                    "number": number,
                    "id": f"p{number}",
                    "collection_number": collection.number,
                    "name": f"Person {number}",
                    "meta": {},
                    "created_at": now,
                }
            )
            templates.append(
                {
                    "number": number,
                    "id": new_id(),
                    "collection_number": collection.number,
                    "person_number": number,
                    "model_id": collection.model_id,
                    "vector": row.tobytes(),
                    "created_at": now,
                }
            )
        session.execute(insert(Person), persons)
        session.execute(insert(Template), templates)
        collection.person_count += len(persons)
        collection.template_count += len(templates)
        record(session, collection.number, "collection_updated", collection.name, now)


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
