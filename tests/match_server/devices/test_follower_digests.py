"""What a box holds is compared with the database: a box that differs is named, and mended."""

import logging
import random
import sqlite3
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import delete, select, update

from match_server.db.tables import Template
from match_server.services.devices import follower_digests
from tests.support.following_box import FollowingBox

STAFF = "/v1/collections/default/persons"


@pytest.fixture
def make_box(api, helpers, tmp_path):
    boxes = []

    def make(name="door-1", groups=()):
        boxes.append(FollowingBox(tmp_path / name, api, name, helpers.MODEL, groups))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


@pytest.fixture
def box(api, helpers, make_box):
    """A box that holds Ann, Bob and Eve, and agrees."""
    for seed, name in enumerate(("Ann", "Bob", "Eve")):
        api.person(name, helpers.unit_vector(seed))
    made = make_box()
    assert made.compare() == ["Ann", "Bob", "Eve"]
    assert (made.feed.snapshots, made.feed.compared) == (1, 2)
    return made


def differs(api):
    (row,) = api.ok("GET", "/v1/followers")["items"]
    return row["differs"]


def complaints(caplog):
    return [record for record in caplog.records if record.levelno == logging.ERROR]


def change(api, statement):
    with api.services.database.write() as session:
        session.execute(statement)
    api.clock.advance(120)  # a digest is shared for a minute


def is_named_and_mended(api, box, caplog, why, expected):
    assert box.compare() == expected
    (record,) = complaints(caplog)
    assert (record.device, record.collection, record.why) == ("door-1", "default", why)
    assert box.feed.snapshots == 2
    box.compare()
    assert box.feed.snapshots == 2
    assert complaints(caplog) == [record]
    assert differs(api) is None
    text = api.services.metrics.exposition(lambda: iter(()))[0]
    assert b'muster_gallery_mended_total{follower="box"} 1.0' in text


@pytest.mark.parametrize("table", ["template", "person"])
def test_a_row_missing_in_a_boxs_store_is_named_and_sent_again(api, box, caplog, tmp_path, table):
    with sqlite3.connect(tmp_path / "door-1" / "gallery.db") as store:
        store.execute(f"DELETE FROM {table} WHERE number = 2")
    store.close()
    why = "the box holds 2 templates, of 3 that it should hold"
    is_named_and_mended(api, box, caplog, why, ["Ann", "Bob", "Eve"])


def test_a_template_that_a_box_lost_in_memory_is_named_and_sent_again(api, box, caplog):
    box.gallery._index.remove(np.array([3], dtype=np.uint64))
    why = "the box holds 2 templates, of 3 that it should hold"
    is_named_and_mended(api, box, caplog, why, ["Ann", "Bob", "Eve"])


def test_a_template_deleted_in_the_database_by_hand_leaves_the_box(api, box, caplog):
    change(api, delete(Template).where(Template.number == 2))
    why = "the box holds 3 templates, of 2 that it should hold"
    is_named_and_mended(api, box, caplog, why, ["Ann", "Eve"])


def test_a_vector_changed_in_the_database_by_hand_reaches_the_box(api, box, caplog, helpers):
    with api.services.database.read() as session:
        vector = session.scalars(select(Template.vector).where(Template.number == 1)).one()
    bob = update(Template).where(Template.number == 2)
    change(api, bob.values(vector=vector, vector_hash=None))
    api.services.hashes.fill()
    why = "the box holds 3 templates, and at least one is not as in the database"
    is_named_and_mended(api, box, caplog, why, ["Ann", "Bob", "Eve"])


def test_a_fault_that_stays_does_not_keep_a_box_busy(api, box, helpers, caplog, monkeypatch):
    add = type(box.gallery._index).add
    monkeypatch.setattr(
        type(box.gallery._index),
        "add",
        lambda self, numbers, rows: add(self, numbers[1:], rows[1:]),
    )
    box.gallery._index.remove(np.array([1], dtype=np.uint64))
    for _ in range(5):
        box.compare()
        api.clock.advance(110)
    assert box.feed.snapshots == 2
    why = "the box holds 2 templates, of 3 that it should hold"
    assert differs(api) == why
    page = api.client.get("/devices").get_data(as_text=True)
    assert why in page or "login" in page
    metrics = api.call("GET", "/metrics").get_data(as_text=True)
    assert 'muster_follower_differs{collection="default",device="door-1"} 1.0' in metrics
    api.clock.advance(110)
    box.compare()
    assert box.feed.snapshots == 3


@pytest.mark.parametrize("cause", ["damaged", "not hashed"])
def test_what_the_server_cannot_read_or_has_not_hashed_is_no_difference(
    api, helpers, make_box, box, caplog, cause
):
    bob = update(Template).where(Template.number == 2)
    values = {"vector": b"cut"} if cause == "damaged" else {"vector_hash": None}
    with api.services.database.read() as session:
        before = session.get(Template, 2)
    change(api, bob.values(values))
    later = make_box("door-2")
    later.compare()
    box.compare()
    assert len(box.gallery) == 3  # it read before
    assert len(later.gallery) == (2 if cause == "damaged" else 3)
    assert [each.feed.snapshots for each in (box, later)] == [1, 1]
    assert not [record for record in complaints(caplog) if "differs" in record.message]
    change(api, bob.values(vector=before.vector, vector_hash=before.vector_hash))


def test_boxes_of_a_site_share_one_digest(api, helpers, make_box, monkeypatch):
    api.person("Ann", helpers.unit_vector(1))
    boxes = [make_box(f"door-{place}") for place in range(5)]
    for each in boxes:
        each.catch_up()
    computed, compute = [], follower_digests.stored_hashes
    monkeypatch.setattr(
        follower_digests, "stored_hashes", lambda *a: computed.append(a) or compute(*a)
    )
    api.person("Bob", helpers.unit_vector(2))
    for each in boxes:
        assert each.compare() == ["Ann", "Bob"]
    assert len(computed) == 1


def test_a_digest_is_whole_or_not_sent(api):
    api.ok("PUT", "/v1/devices/d/galleries", json={"galleries": [{"collection": "default"}]})
    query = {"collection": "default", "since": 0, "templates": 3}
    refusal = api.refused(400, "GET", "/v1/changes", "device:d", query_string=query)
    assert "digest" in str(refusal)


class _Life:
    """Random writes, with boxes that compare in between."""

    def __init__(self, api, helpers, make_box, seed):
        self.api, self.helpers = api, helpers
        self.random = random.Random(seed)
        self.people = []
        for name in ("day", "night"):
            body = {"collection": "default", "id": name, "name": name}
            api.ok("POST", "/v1/groups", json=body)
        groups = {"all": (), "day": ("day",), "both": ("day", "night")}
        self.boxes = [make_box(name, chosen) for name, chosen in groups.items()]
        for box in self.boxes:
            self._slow_down(box.feed)

    def _slow_down(self, feed):
        """Each response takes up to two seconds, in which the box's clock falls behind."""
        request = feed.changes

        def changes(*arguments):
            response = request(*arguments)
            self.api.clock.advance(self.random.uniform(0, 2))
            return response

        feed.changes = changes

    def expiry(self):
        if self.random.random() < 0.5:
            return None
        moment = self.api.clock.now() + timedelta(seconds=self.random.uniform(1, 120))
        return moment.isoformat()

    def step(self):
        kinds = [self.enroll, self.enroll, self.add, self.erase, self.move, self.edit, self.wait]
        self.random.choice(kinds)()
        if self.random.random() < 0.6:
            self.random.choice(self.boxes).compare()

    def enroll(self):
        groups = [name for name in ("day", "night") if self.random.random() < 0.5]
        more = {"groups": groups, "expires_at": self.expiry()}
        vector = self.helpers.unit_vector(self.random.randrange(10**6))
        self.people.append(self.api.person(f"P{len(self.people)}", vector, **more))

    def add(self):
        if self.people:
            vector = self.helpers.unit_vector(self.random.randrange(10**6))
            self.api.template(self.random.choice(self.people), vector)

    def erase(self):
        if self.people:
            person = self.people.pop(self.random.randrange(len(self.people)))
            self.api.ok("DELETE", f"{STAFF}/{person}")

    def move(self):
        if self.people:
            verb = self.random.choice(["add", "remove"])
            body = {"add": [], "remove": [], verb: [self.random.choice(self.people)]}
            group = self.random.choice(["day", "night"])
            self.api.ok("PUT", f"/v1/groups/{group}/persons", json=body)

    def edit(self):
        if self.people:
            body = {"expires_at": self.expiry()}
            self.api.ok("PATCH", f"{STAFF}/{self.random.choice(self.people)}", json=body)

    def wait(self):
        self.api.clock.advance(self.random.uniform(0, 100))


@pytest.mark.parametrize("seed", range(2))
def test_no_history_of_people_who_come_move_expire_and_go_makes_a_box_differ(
    api, helpers, make_box, caplog, seed
):
    life = _Life(api, helpers, make_box, seed)
    for _ in range(60):
        life.step()
    api.clock.advance(60)
    for box in life.boxes:
        box.compare()
        assert box.feed.snapshots == 1
        assert box.feed.compared > 5
    assert complaints(caplog) == []
