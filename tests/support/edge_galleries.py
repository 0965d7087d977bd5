"""Feeds and stores for tests of the box's gallery, made without a server."""

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.gallery.encrypted_store import Store
from shared.encryption import Keyring
from shared.wire.change_feed import (
    FeedChanges,
    FeedPerson,
    FeedTemplates,
    Gallery,
    Held,
    SnapshotHead,
    SnapshotPart,
)
from shared.wire.template import Template

COLLECTION = "staff"
MODEL = "test@1"
DIMENSION = 32
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="  # 32 times the letter A


class MovableClock:
    """Wall and monotonic clocks that a test moves apart."""

    def __init__(self) -> None:
        self.moment = NOON
        self.elapsed_s = 1000.0

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def pass_by(self, **time: float) -> None:
        """Moves both clocks."""
        span = timedelta(**time)
        self.moment += span
        self.elapsed_s += span.total_seconds()


def keys(text: str = KEY) -> Keyring:
    return Keyring.from_text(text)


def make_store(folder: Path, ring: Keyring | None = None) -> Store:
    return Store(folder / "gallery.db", COLLECTION, ring or keys())


def gallery(**changes: object) -> Gallery:
    fields = {
        "collection": COLLECTION,
        "scope": "all",
        "model_id": MODEL,
        "dimension": DIMENSION,
        "threshold": 0.5,
        "margin": 0.1,
    }
    return Gallery.model_validate({**fields, **changes})


def vector(seed: int) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (row / np.linalg.norm(row)).astype(np.float32)


def near(row: NDArray[np.float32], similarity: float, seed: int = 99) -> NDArray[np.float32]:
    """Returns a unit vector with this cosine to `row`."""
    other = np.random.default_rng(seed).standard_normal(DIMENSION)
    other -= (other @ row) * row
    other /= np.linalg.norm(other)
    made = similarity * row + np.sqrt(1 - similarity**2) * other
    return (made / np.linalg.norm(made)).astype(np.float32)


def template(row: NDArray[np.float32], model: str = MODEL) -> Template:
    return Template(model, row)


def person(number: int, **more: object) -> FeedPerson:
    return FeedPerson.model_validate({"number": number, "id": f"p{number}", **more})


def templates(owners: Mapping[int, int]) -> FeedTemplates:
    """Templates by number and person; the vector of each is that of its number."""
    return FeedTemplates.pack(
        [
            (one, person_number, vector(one).astype("<f2").tobytes())
            for one, person_number in owners.items()
        ]
    )


def head(seq: int = 10, **changes: object) -> SnapshotHead:
    return SnapshotHead(gallery=gallery(**changes), seq=seq, at=NOON)


def part(persons: Iterable[FeedPerson], owners: Mapping[int, int]) -> SnapshotPart:
    return SnapshotPart(after=max(owners), persons=list(persons), templates=templates(owners))


def changes(seq: int, **more: object) -> FeedChanges:
    fields = {"gallery": gallery(), "seq": seq, "more": False, "at": NOON}
    return FeedChanges.model_validate({**fields, **more})


def fill(store: Store, count: int = 3) -> None:
    """Persons 1 to `count` with template 100 + number each; caught up with number 10."""
    store.begin(head())
    people = range(1, count + 1)
    store.extend(part([person(one) for one in people], {100 + one: one for one in people}))
    store.complete()
    store.apply(changes(10))


class ScriptedSource:
    """A server with scripted responses; without one it is unreachable."""

    def __init__(self) -> None:
        self.answers: list[FeedChanges | Exception] = []
        self.snapshots: list[tuple[SnapshotHead, list[SnapshotPart | Exception]] | Exception] = []
        self.calls: list[tuple[str, int]] = []
        self.held: list[Held | None] = []  # what the changes were requested with

    def changes(
        self, collection: str, since: int, scope: str, wait_s: float, held: Held | None = None
    ) -> FeedChanges:
        self.calls.append(("changes", since))
        self.held.append(held)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def snapshot(self, collection: str, after: int):  # type: ignore[no-untyped-def]
        self.calls.append(("snapshot", after))
        answer = self.snapshots.pop(0)
        if isinstance(answer, Exception):
            raise answer
        first, parts = answer

        def sent_parts():  # type: ignore[no-untyped-def]
            for one in parts:
                if isinstance(one, Exception):
                    raise one
                yield one

        yield first, sent_parts()

    def close(self) -> None:
        pass
