"""The follower of a change feed: the next request after each response."""

import random
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent.gallery.edge_gallery import EdgeGallery
from edge_agent.gallery.encrypted_store import Store
from edge_agent.gallery.replica import Follower
from shared.errors import Forbidden, NotFound, SnapshotNeeded, Unauthenticated, Unavailable
from tests.support.edge_galleries import (
    COLLECTION,
    MODEL,
    MovableClock,
    ScriptedSource,
    changes,
    gallery,
    head,
    keys,
    make_store,
    part,
    person,
    template,
    vector,
)


class Box:
    """A follower with a scripted server."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovableClock()
        self.source = ScriptedSource()
        self.store = make_store(folder)
        self.gallery = EdgeGallery(self.store, COLLECTION, MODEL, timedelta(hours=72), self.clock)
        self.gallery.load(self.store.state())
        self.follower = Follower(
            self.gallery, self.source, clock=self.clock, jitter=random.Random(1)
        )

    def fetched(self) -> "Box":
        self.source.snapshots.append((head(seq=5), [part([person(1)], {101: 1})]))
        self.source.answers.append(changes(9))
        self.follower.step()
        self.follower.step()
        assert self.gallery.unusable() is None
        return self


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_snapshot_then_its_changes_then_what_is_new(box: Box) -> None:
    box.fetched()
    box.source.answers.append(changes(12, removed=[101]))
    assert box.follower.step() == 0.0
    assert box.source.calls == [("snapshot", 0), ("changes", 5), ("changes", 9)]
    assert len(box.gallery) == 0
    assert box.follower.in_touch


def test_a_snapshot_cut_short_goes_on_and_keeps_its_first_number(box: Box, tmp_path: Path) -> None:
    first = part([person(1)], {101: 1})
    box.source.snapshots.append((head(seq=5), [first, Unavailable("cut")]))
    assert box.follower.step() > 0
    assert box.gallery.unusable() is not None
    again = Box(tmp_path)  # and killed besides
    again.source.snapshots.append((head(seq=50), [part([person(2)], {102: 2})]))
    again.source.answers.append(changes(60))
    again.follower.step()
    again.follower.step()
    assert again.source.calls == [("snapshot", 101), ("changes", 5)]
    assert len(again.gallery) == 2


def test_the_rest_of_another_gallery_is_not_added_to_what_is_there(box: Box) -> None:
    first = part([person(1)], {101: 1})
    box.source.snapshots.append((head(seq=5), [first, Unavailable("cut")]))
    box.follower.step()
    box.source.snapshots.append((head(seq=6, scope="night"), [part([person(2)], {102: 2})]))
    assert box.follower.step() == 0.0
    box.source.snapshots.append((head(seq=6, scope="night"), [part([person(2)], {102: 2})]))
    box.follower.step()
    assert [kind for kind, _ in box.source.calls] == ["snapshot"] * 3
    assert [after for _, after in box.source.calls] == [0, 101, 0]
    assert [one.id for one in box.store.persons()] == ["p2"]


def test_who_has_to_begin_anew_forgets_first(box: Box) -> None:
    box.fetched()
    box.source.answers.append(SnapshotNeeded("another feed"))
    assert box.follower.step() == 0.0
    assert box.store.state() is None
    box.source.snapshots.append((head(seq=2, scope="new"), [part([person(3)], {103: 3})]))
    box.source.answers.append(changes(2, gallery=gallery(scope="new")))
    box.follower.step()
    box.follower.step()
    assert [one.id for one in box.store.persons()] == ["p3"]


@pytest.mark.parametrize("error", [Forbidden("not yours"), NotFound("no such collection")])
def test_what_the_box_may_not_hold_any_more_is_forgotten(box: Box, error: Exception) -> None:
    box.fetched()
    box.source.answers.append(error)
    assert box.follower.step() >= 30
    assert box.store.state() is None
    assert list(box.store.persons()) == []
    assert box.follower.in_touch  # the server is there; it just says no
    assert box.follower.complaint is not None


@pytest.mark.parametrize("error", [Unavailable("away"), Unauthenticated("no such key")])
def test_a_server_that_is_away_takes_nothing_from_the_box(box: Box, error: Exception) -> None:
    box.fetched()
    box.source.answers += [error, error, changes(10)]
    pauses = [box.follower.step(), box.follower.step()]
    assert all(0 < pause <= 60 for pause in pauses)
    assert not box.follower.in_touch
    assert box.gallery.unusable() is None
    assert len(box.gallery) == 1
    box.follower.step()
    assert (box.follower.in_touch, box.follower.complaint) == (True, None)


def test_pauses_grow_and_are_never_alike(box: Box) -> None:
    box.source.snapshots += [Unavailable("away") for _ in range(12)]
    pauses = [box.follower.step() for _ in range(12)]
    assert pauses[0] <= 0.5 < 20 < min(pauses[-3:])
    assert max(pauses) <= 60
    assert len(set(pauses[-3:])) == 3


def test_the_wish_of_a_busy_server_is_heeded(box: Box) -> None:
    box.source.snapshots.append(Unavailable("busy", retry_after_s=77.0))
    assert box.follower.step() == 77.0


def test_a_crowded_server_is_not_asked_without_a_pause(box: Box) -> None:
    box.fetched()
    box.source.answers += [changes(9), changes(9)]
    assert box.follower.step() >= 4  # an empty answer at once: there was no place to wait


def test_a_store_that_turns_out_to_be_damaged_is_fetched_anew(box: Box, tmp_path: Path) -> None:
    box.fetched()
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        connection.execute("UPDATE template SET sealed = x'00'")
    connection.close()
    assert box.gallery.decide(template(vector(101))) is None
    assert box.gallery.unusable() is not None
    box.source.answers.append(Unavailable("away"))
    box.follower.step()
    assert box.gallery.state is not None  # nothing is given up before the server is heard
    box.source.answers.append(changes(9))
    assert box.follower.step() > 0
    assert box.gallery.state is None
    box.source.snapshots.append((head(seq=9), [part([person(1)], {101: 1})]))
    box.source.answers.append(changes(9))
    box.follower.step()
    box.follower.step()
    assert box.source.calls[-2:] == [("snapshot", 0), ("changes", 9)]
    result = box.gallery.decide(template(vector(101)))
    assert result is not None
    assert result.decision == "identified"


def test_a_server_that_sends_without_end_fills_neither_disk_nor_memory(tmp_path: Path) -> None:
    most = 1024 * 1024
    box = Box(tmp_path)
    box.store.close()
    store = Store(tmp_path / "gallery.db", COLLECTION, keys(), most)
    box.gallery = EdgeGallery(store, COLLECTION, MODEL, timedelta(hours=72), box.clock)
    box.follower = Follower(box.gallery, box.source, clock=box.clock, jitter=random.Random(1))
    for first in (0, 10_000):
        parts = [
            part([person(number)], {100 * number + place: number for place in range(1, 100)})
            for number in range(first + 1, first + 400)
        ]
        box.source.snapshots.append((head(seq=5), parts))
        assert box.follower.step() > 0.0
        assert "gallery.max_mib" in str(box.follower.complaint)
        assert (tmp_path / "gallery.db").stat().st_size <= most
    assert box.gallery.unusable() is not None
    store.close()
