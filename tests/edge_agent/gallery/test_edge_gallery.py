"""Decisions of a gallery on the device, and when it makes none."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_agent.gallery.edge_gallery import EdgeGallery
from edge_agent.gallery.encrypted_store import Store
from shared.errors import ModelMismatch
from tests.support.edge_galleries import (
    COLLECTION,
    MODEL,
    NOON,
    MovableClock,
    changes,
    fill,
    gallery,
    head,
    make_store,
    near,
    part,
    person,
    template,
    templates,
    vector,
)

KEEP = timedelta(hours=72)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def opened(tmp_path: Path, clock: MovableClock) -> Callable[[], tuple[EdgeGallery, Store]]:
    """Returns a function that opens the gallery of one folder, as a start of the device does."""

    def start() -> tuple[EdgeGallery, Store]:
        store = make_store(tmp_path)
        local = EdgeGallery(store, COLLECTION, MODEL, KEEP, clock)
        local.load(store.state())
        return local, store

    return start


@pytest.fixture
def known(opened: Callable[[], tuple[EdgeGallery, Store]]) -> EdgeGallery:
    local, store = opened()
    fill(store)
    local.load(store.state())
    return local


def decided(local: EdgeGallery, row: np.ndarray) -> tuple[str, str | None]:
    result = local.decide(template(row))
    assert result is not None, local.unusable()
    return result.decision, None if result.person is None else result.person.id


def test_it_decides_by_the_policy_that_came_with_the_feed(known: EdgeGallery) -> None:
    assert decided(known, near(vector(101), 0.9)) == ("identified", "p1")
    assert decided(known, near(vector(101), 0.4)) == ("unknown", None)
    known.apply(changes(11, gallery=gallery(threshold=0.3)))
    assert decided(known, near(vector(101), 0.4)) == ("identified", "p1")
    result = known.decide(template(near(vector(101), 0.9)))
    assert result is not None
    assert result.similarity == pytest.approx(0.9, abs=2e-3)
    assert (result.collection, result.seq) == (COLLECTION, 11)


def test_two_who_are_as_near_are_ambiguous_but_one_person_twice_is_not(
    known: EdgeGallery,
) -> None:
    between = vector(101) + vector(102)
    between /= np.linalg.norm(between)
    known.apply(changes(10, gallery=gallery(threshold=0.3)))
    assert decided(known, between) == ("ambiguous", None)
    # Whose templates fill the list by themselves: the search asks further.
    crowd = dict.fromkeys(range(200, 230), 1)
    row = vector(101).astype(np.float64)
    known.apply(changes(11, persons=[person(1)], templates=_all_near(crowd, row)))
    assert decided(known, vector(101)) == ("identified", "p1")
    known.apply(changes(12, persons=[person(7)], templates=_all_near({300: 7}, row)))
    assert decided(known, vector(101)) == ("ambiguous", None)


def _all_near(owners: dict[int, int], row: np.ndarray) -> object:
    from shared.wire.change_feed import FeedTemplates

    return FeedTemplates.pack(
        [
            (
                number,
                person_number,
                near(row.astype(np.float32), 0.97, number).astype("<f2").tobytes(),
            )
            for number, person_number in owners.items()
        ]
    )


def test_an_erased_person_is_nobody_at_once_and_after_a_start(
    known: EdgeGallery, opened: Callable[[], tuple[EdgeGallery, Store]]
) -> None:
    known.apply(changes(11, removed=[101]))
    assert decided(known, vector(101)) == ("unknown", None)
    again, _ = opened()
    assert decided(again, vector(101)) == ("unknown", None)
    assert decided(again, vector(102)) == ("identified", "p2")


def test_who_expires_while_the_box_is_alone_is_nobody_from_then_on(
    opened: Callable[[], tuple[EdgeGallery, Store]], clock: MovableClock
) -> None:
    local, store = opened()
    store.begin(head())
    store.extend(
        part([person(1, expires_at=NOON + timedelta(hours=1)), person(2)], {101: 1, 102: 2})
    )
    store.complete()
    store.apply(changes(10))
    local.load(store.state())
    assert decided(local, vector(101)) == ("identified", "p1")
    clock.pass_by(hours=2)
    assert decided(local, vector(101)) == ("unknown", None)
    local.tidy()
    assert [one.id for one in store.persons()] == ["p2"]
    assert len(local) == 1


def test_a_box_whose_clock_fell_back_does_not_take_an_old_day_for_today(
    opened: Callable[[], tuple[EdgeGallery, Store]], clock: MovableClock
) -> None:
    local, store = opened()
    store.begin(head())
    store.extend(part([person(1, expires_at=NOON + timedelta(hours=8))], {101: 1}))
    store.complete()
    store.apply(changes(10))
    local.load(store.state())
    clock.pass_by(hours=7)
    local.tidy()  # which remembers how late it is
    clock.moment = NOON - timedelta(days=300)  # no clock that runs while the box is off
    again, _ = opened()
    assert decided(again, vector(101)) == ("identified", "p1")
    clock.elapsed_s += 2 * 3600
    assert decided(again, vector(101)) == ("unknown", None)


def test_a_clock_that_runs_wild_is_not_believed_while_the_server_is_heard(
    known: EdgeGallery, clock: MovableClock
) -> None:
    known.apply(changes(11))
    clock.moment += timedelta(days=365)
    assert known.unusable() is None
    clock.elapsed_s += KEEP.total_seconds() + 1
    assert known.unusable() is not None


def test_after_too_long_without_the_server_everything_is_forgotten(
    known: EdgeGallery,
    opened: Callable[[], tuple[EdgeGallery, Store]],
    clock: MovableClock,
) -> None:
    clock.pass_by(hours=71)
    assert decided(known, vector(101)) == ("identified", "p1")
    clock.pass_by(hours=2)
    assert known.decide(template(vector(101))) is None
    assert "not been heard" in (known.unusable() or "")
    _, store = opened()
    assert store.state() is not None
    known.tidy()
    assert (store.state(), list(store.persons())) == (None, [])


def test_another_model_is_never_compared(
    known: EdgeGallery, tmp_path: Path, clock: MovableClock
) -> None:
    assert known.decide(template(vector(101), model="other@2")) is None
    box = EdgeGallery(make_store(tmp_path), COLLECTION, "other@2", KEEP, clock)
    box.load(make_store(tmp_path).state())
    assert "other@2" in (box.unusable() or "")
    assert box.decide(template(vector(101), model="other@2")) is None
    with pytest.raises(ModelMismatch, match="never compared"):
        box.begin(head())
    assert make_store(tmp_path).state() is None


def test_a_snapshot_alone_is_not_yet_the_truth(
    opened: Callable[[], tuple[EdgeGallery, Store]],
) -> None:
    local, _ = opened()
    local.begin(head(seq=5))
    assert local.decide(template(vector(101))) is None
    local.extend(part([person(1), person(2)], {101: 1, 102: 2}))
    local.complete()
    assert local.decide(template(vector(101))) is None  # who was erased meanwhile may be in it
    local.apply(changes(9, more=True))
    assert local.unusable() is not None
    local.apply(changes(12, removed=[101]))
    assert decided(local, vector(101)) == ("unknown", None)
    assert decided(local, vector(102)) == ("identified", "p2")


def test_index_of_many_who_left_are_let_go_of(known: EdgeGallery) -> None:
    crowd = {number: number for number in range(1000, 7000)}
    known.apply(changes(11, persons=[person(one) for one in crowd], templates=templates(crowd)))
    known.apply(changes(12, left=list(range(1000, 6900))))
    assert len(known) == 103
    assert known._index is not None
    assert known._index.removed == 0
    assert decided(known, vector(6950)) == ("identified", "p6950")


def test_who_expires_is_deleted_also_when_the_expiry_came_later(
    known: EdgeGallery, clock: MovableClock
) -> None:
    known.tidy()  # nobody expires, as it seems
    known.apply(changes(11, persons=[person(2, expires_at=NOON + timedelta(hours=1))]))
    clock.pass_by(minutes=59)
    known.tidy()
    assert len(known) == 3
    clock.pass_by(minutes=2)
    known.tidy()
    assert len(known) == 2


@pytest.mark.parametrize("table", ["template", "person"])
@pytest.mark.parametrize("started_since", [True, False])
def test_a_row_that_does_not_open_costs_nobody_else(
    opened: Callable[[], tuple[EdgeGallery, Store]],
    tmp_path: Path,
    table: str,
    started_since: bool,
) -> None:
    local, store = opened()
    fill(store)
    local.load(store.state())
    number = {"template": 102, "person": 2}[table]
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as disk, disk:
        disk.execute(
            f"UPDATE {table} SET sealed = zeroblob(length(sealed)) WHERE number = ?", (number,)
        )
    if started_since:
        local, _ = opened()
    assert decided(local, vector(102)) == ("unknown", None)
    for known in (101, 103):
        assert decided(local, vector(known))[0] == "identified"
    assert local.unusable() is None
    assert "cannot be read" in (local.damage or "")


def test_a_gallery_of_which_much_does_not_open_decides_nothing(
    opened: Callable[[], tuple[EdgeGallery, Store]], tmp_path: Path
) -> None:
    _, store = opened()
    fill(store, 40)
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as disk, disk:
        disk.execute("UPDATE template SET sealed = x'00' WHERE number <= 104")
    local, _ = opened()
    assert local.decide(template(vector(120))) is None
    assert "cannot be read" in (local.unusable() or "")
