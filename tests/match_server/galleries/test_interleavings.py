"""Processes that read and write the same segments in rare orders: no template is lost."""

import logging
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, contextmanager

import numpy as np
import pytest
from sqlalchemy import delete, select

from match_server.db.database import sqlite_path
from match_server.db.epochs import begin_epoch
from match_server.db.tables import Template
from match_server.services.devices import gallery_feed
from match_server.services.galleries import follower
from match_server.services.galleries.galleries import Galleries, open_segments
from tests.support.following_box import FollowingBox
from tests.support.galleries import gallery_of


@pytest.fixture
def worker(api, tmp_path):
    """Starts galleries over one folder, as several processes do."""
    started = []

    def start(open_gallery=open_segments):
        started.append(
            Galleries(
                api.services.database,
                api.services.vault,
                open_gallery,
                folder=tmp_path / "galleries",
            )
        )
        return started[-1]

    yield start
    for index in started:
        index.close()


def searched(index, services) -> set[int]:
    return set(gallery_of(index, services).content()[1].tolist())


def stored(services) -> set[int]:
    with services.database.read() as session:
        return set(session.scalars(select(Template.number)))


def test_people_enrolled_while_another_worker_opens_the_segments_stay_found(api, helpers, worker):
    second = worker()
    api.person("Ann", helpers.unit_vector(0))
    gallery = gallery_of(second, api.services)

    def enroll_and_seal_first(folder, dimension, origin):
        for seed in range(1, 6):
            api.person(f"P{seed}", helpers.unit_vector(seed))
        gallery_of(second, api.services)
        assert gallery.seal()
        return open_segments(folder, dimension, origin)

    first = worker(enroll_and_seal_first)
    assert len(searched(first, api.services)) == 6
    api.person("Zoe", helpers.unit_vector(9))
    for index in (second, first, worker()):
        assert searched(index, api.services) == stored(api.services)
    first.close()
    second.close()
    assert searched(worker(), api.services) == stored(api.services)


def test_a_gallery_that_lost_somebody_is_noticed_and_mended(api, helpers, worker, caplog):
    index = worker()
    ann = api.person("Ann", helpers.unit_vector(1))
    gallery = gallery_of(index, api.services)
    gallery.remove(np.array([1], dtype=np.uint64))  # as if it had applied a change of its own
    api.template(ann, helpers.unit_vector(2))
    assert searched(index, api.services) == set()
    index.compare()
    assert searched(index, api.services) == {1, 2} == stored(api.services)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.message == "Mending a gallery that differs from the database"
    assert record.why.startswith(
        "2 templates are missing in it, 0 are not in the database, 0 have another vector; the "
    )


def test_a_template_deleted_in_the_database_by_hand_is_not_found_after_a_start(
    api, helpers, worker, caplog
):
    api.person("Ann", helpers.unit_vector(1))
    api.person("Bob", helpers.unit_vector(2))
    first = worker()
    assert searched(first, api.services) == {1, 2}
    first.close()
    with api.services.database.write() as session:
        session.execute(delete(Template).where(Template.number == 2))
    assert searched(worker(), api.services) == {1}
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.why.startswith(
        "0 templates are missing in it, 1 are not in the database, 0 have another vector; the "
    )


def test_a_segment_merged_away_while_it_is_verified_is_no_damage(api, helpers, worker):
    first, second = worker(), worker()
    api.person("Ann", helpers.unit_vector(1))
    gallery, other = gallery_of(first, api.services), gallery_of(second, api.services)
    gallery.seal()
    other.refresh()
    (view,) = [view for view in other._views if view.segment.name]
    api.template(api.person("Bob"), helpers.unit_vector(2))
    gallery_of(first, api.services)
    gallery.seal()  # merges both into a new segment
    other.verify()
    assert other.damage is None
    assert view.segment.name not in {each.segment.name for each in gallery._views}


class Life:
    """Random steps of three workers, some in the middle of another step."""

    def __init__(self, api, helpers, start: Callable[..., Galleries], seed: int) -> None:
        self.api, self.helpers, self.start = api, helpers, start
        self.random = random.Random(seed)
        self.person = api.person("Ann")
        self.workers = {name: start(self.opened) for name in range(3)}
        self.busy: list[int] = []
        self.templates: dict[int, str] = {}
        self.vectors: dict[str, np.ndarray] = {}  # by id of the template
        self.restores = 0

    def opened(self, folder, dimension, origin):
        self.interrupt()
        gallery = open_segments(folder, dimension, origin)
        read = gallery.content

        def content():
            result = read()
            self.interrupt()
            return result

        gallery.content = content
        self.interrupt()
        return gallery

    def interrupt(self) -> None:
        if len(self.busy) == 1 and self.random.random() < 0.5:
            for _ in range(self.random.randint(1, 3)):
                self.step()

    def step(self) -> None:
        free = [name for name in self.workers if name not in self.busy]
        name = self.random.choice(free)
        writes = [self.enroll, self.enroll, self.remove]
        keeps = [
            self.catch_up,
            self.compare,
            self.seal,
            self.compact,
            self.restart,
            self.crash,
        ]
        action = self.random.choice([*writes, *keeps, *self.further()])
        self.busy.append(name)
        try:
            action(name)
        finally:
            self.busy.remove(name)

    def further(self) -> list[Callable[[int], None]]:
        return []

    def enroll(self, _name: int) -> None:
        vector = self.helpers.unit_vector(self.random.randrange(10**6))
        made = self.api.template(self.person, vector)["id"]
        (number,) = stored(self.api.services) - self.templates.keys()
        self.templates[number] = made
        self.vectors[made] = vector

    def remove(self, _name: int) -> None:
        if self.templates:
            number = self.random.choice(sorted(self.templates))
            self.api.ok("DELETE", f"/v1/templates/{self.templates.pop(number)}")

    def catch_up(self, name: int) -> None:
        before, last = set(self.templates), max(self.templates, default=0)
        restores = self.restores
        numbers = searched(self.workers[name], self.api.services)
        if self.restores != restores:
            return
        assert before & self.templates.keys() <= numbers
        assert {number for number in numbers if number <= last} <= before

    def compare(self, name: int) -> None:
        self.workers[name].compare()
        assert self.workers[name].differing() == 0

    def seal(self, name: int) -> None:
        gallery_of(self.workers[name], self.api.services).seal()

    def compact(self, name: int) -> None:
        gallery_of(self.workers[name], self.api.services).compact()

    def restart(self, name: int) -> None:
        self.workers[name].close()
        self.crash(name)

    def crash(self, name: int) -> None:
        self.workers[name] = self.start(self.opened)
        self.catch_up(name)


class Failovers(Life):
    """The same with a box, and a database that is replaced by an earlier state of itself.

    That is what followers see of a failover and of a restore. As on PostgreSQL, the epoch begins
    with the first write after it. What is being read at that moment comes from the lost database.
    """

    def __init__(self, api, helpers, start, seed: int, box: FollowingBox) -> None:
        super().__init__(api, helpers, start, seed)
        self.box, self.following = box, False
        self.file = sqlite_path(api.services.database.url)
        self.copy = self.file.with_name("copy.db")
        self.save(0)
        self.due = False  # whether an epoch is to begin
        self.write = api.services.database.write

    def further(self) -> list[Callable[[int], None]]:
        return [self.save, self.replace, self.follow, self.follow, self.follow]

    def save(self, _name: int) -> None:
        with (
            closing(sqlite3.connect(self.file)) as source,
            closing(sqlite3.connect(self.copy)) as to,
        ):
            source.backup(to)
        self.saved = dict(self.templates)

    def replace(self, _name: int) -> None:
        self.api.services.database.close()
        for end in ("-wal", "-shm"):
            self.file.with_name(f"{self.file.name}{end}").unlink(missing_ok=True)
        beside = self.file.with_name("beside.db")
        shutil.copy(self.copy, beside)
        beside.replace(self.file)
        self.templates = dict(self.saved)
        self.restores += 1
        self.due = True

    @contextmanager
    def first_write(self):
        busy, self.busy = self.busy, []  # no other step can write meanwhile
        try:
            with self.write() as session:
                if self.due:
                    begin_epoch(session.connection(), "promoted")
                yield session
            self.due = False
        finally:
            self.busy = busy

    def follow(self, _name: int) -> None:
        if not self.following:  # a box sends one request at a time
            self.following = True
            self.box.step()
            self.following = False

    def content(self) -> dict[int, bytes]:
        """The templates that the database has, as followers get them."""
        return {
            number: self.vectors[key].astype("<f2").tobytes()
            for number, key in self.templates.items()
        }


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_steps_loses_or_revives_a_template(api, helpers, worker, monkeypatch, seed):
    life = Life(api, helpers, worker, seed)
    let_interrupt(monkeypatch, follower, life)
    monkeypatch.setattr(follower.log, "error", pytest.fail)
    if seed % 2:
        monkeypatch.setattr(follower, "_STEP", 3)
        monkeypatch.setattr(follower, "_MAX_PRIVATE", 4)
        monkeypatch.setattr(follower, "_LEADER_TIMEOUT_S", 0)
    for _ in range(40):
        life.step()
    for name in life.workers:
        life.compare(name)
        life.catch_up(name)
        assert searched(life.workers[name], api.services) == set(life.templates)


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("seed", range(4))
def test_no_failover_or_restore_among_them_does_either(
    api, helpers, worker, monkeypatch, tmp_path, seed
):
    box = FollowingBox(tmp_path / "box", api, "door", helpers.MODEL)
    life = Failovers(api, helpers, worker, seed, box)
    monkeypatch.setattr(api.services.database, "write", life.first_write)
    let_interrupt(monkeypatch, follower, life)
    let_interrupt(monkeypatch, gallery_feed, life)
    monkeypatch.setattr(gallery_feed, "_PART", 2)
    for _ in range(60):
        life.step()
    life.busy = [0, 1]  # no more interruptions
    box.catch_up()
    assert box.templates() == life.content()
    for name in life.workers:
        life.catch_up(name)
        gallery = gallery_of(life.workers[name], api.services)
        assert searched(life.workers[name], api.services) == set(life.templates)
        for number, key in life.templates.items():
            (best,) = gallery.search(life.vectors[key][np.newaxis], 1)
            assert best.ids.tolist() == [number]
            assert best.similarities[0] > 0.999
    box.close()


def let_interrupt(monkeypatch, module, life: Life) -> None:
    """Let other steps happen before and after each time that a module reads the feed's position."""
    read = module.feed_position

    def feed_position(*arguments):
        life.interrupt()
        feed = read(*arguments)
        life.interrupt()
        return feed

    monkeypatch.setattr(module, "feed_position", feed_position)
