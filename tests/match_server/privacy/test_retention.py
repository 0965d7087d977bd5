"""Retention: old data is deleted in portions, with entries; and the periodic tasks."""

from sqlalchemy import func, select

from match_server.db.leader_lock import leader_lock
from match_server.db.tables import Event, EventCandidate, Probe
from match_server.services.audit.chain import Actor, act_as
from match_server.services.maintenance import Housekeeper, Task
from match_server.services.privacy.retention import RetentionSweep
from shared.clock import rfc3339
from shared.errors import MusterError

DAY = 24 * 3600
NEVER = {"retain_events_days": 0, "retain_snapshots_days": 0, "retain_unknown_days": 0}


def _sighted(api, helpers, *, known=1, unknown=1):
    """Make sightings of Ann and of unknown persons. Returns their ids."""
    probes = [api.probe(helpers.unit_vector(1), camera=f"c{n}") for n in range(known)]
    probes += [api.probe(helpers.unit_vector(100 + n)) for n in range(unknown)]
    for place, one in enumerate(probes):
        one["sequence"] = place + 1
    return [one["event"]["id"] for one in api.send(*probes)]


def _rows(api, table):
    with api.services.database.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def _thumbnails(api):
    folder = api.services.settings.data_dir / "snapshots"
    return sum(file.is_file() for file in folder.rglob("*"))


def _swept(reports, collection="default"):
    (one,) = [report for report in reports if report.collection == collection]
    return one.model_dump(exclude={"collection"}, exclude_defaults=True)


def test_each_kind_goes_after_its_own_time(make_api, helpers, clock):
    api = make_api(retain_unknown_days=1, retain_snapshots_days=3, retain_events_days=10)
    api.person("Ann", helpers.unit_vector(1))
    _sighted(api, helpers, known=2, unknown=3)
    retention = api.services.retention
    assert _swept(retention.run()) == {}
    clock.advance(1 * DAY + 1)
    gone = {"events": 3, "unknown": 3, "snapshots": 3, "probes": 3}
    assert _swept(retention.preview()) == gone
    assert _rows(api, Event) == 5  # a preview changes nothing
    assert _swept(retention.run()) == gone
    assert (_rows(api, Event), _rows(api, Probe), _thumbnails(api)) == (2, 2, 2)
    figures = api.call("GET", "/metrics").get_data(as_text=True)
    assert 'muster_retention_deleted_total{what="events"} 3.0' in figures
    clock.advance(2 * DAY)
    assert _swept(retention.preview()) == _swept(retention.run()) == {"snapshots": 2}
    assert (_rows(api, Event), _thumbnails(api)) == (2, 0)
    assert api.ok("GET", "/v1/events")["items"][0]["snapshot"] is None
    clock.advance(7 * DAY)
    assert _swept(retention.run()) == {"events": 2, "probes": 2}
    assert [_rows(api, table) for table in (Event, EventCandidate, Probe)] == [0, 0, 0]


def test_a_collection_may_keep_longer_or_shorter(make_api, helpers, clock):
    api = make_api(**{**NEVER, "retain_unknown_days": 30})
    _sighted(api, helpers, known=0, unknown=1)
    clock.advance(2 * DAY)
    assert _swept(api.services.retention.run()) == {}
    policy = {"retention": {"unknown_days": 1}}
    changed = api.ok("PATCH", "/v1/collections/default", json={"policy": policy})
    assert changed["policy"]["retention"]["unknown_days"] == 1
    assert _swept(api.services.retention.run())["unknown"] == 1
    _sighted(api, helpers, known=0, unknown=1)
    policy = {"retention": {"unknown_days": 0}}
    api.ok("PATCH", "/v1/collections/default", json={"policy": policy})
    clock.advance(1000 * DAY)
    assert _swept(api.services.retention.run()) == {}
    api.refused(
        400,
        "PATCH",
        "/v1/collections/default",
        json={"policy": {"retention": {"unknown_days": -1}}},
    )


def test_expired_persons_are_erased_after_their_grace_with_a_certificate(make_api, helpers, clock):
    api = make_api(**NEVER, erase_expired_after_days=2)
    api.person("Ann", helpers.unit_vector(1), id="ann", expires_at=rfc3339(clock.now()))
    api.person("Bob", helpers.unit_vector(2), id="bob")
    clock.advance(1 * DAY)
    assert api.names(helpers.unit_vector(1)) == ["Bob"]  # expired, so no candidate; still there
    assert _swept(api.services.retention.run()) == {}
    clock.advance(1 * DAY + 1)
    assert _swept(api.services.retention.preview()) == {"persons": 1}
    act_as(Actor())
    assert _swept(api.services.retention.run()) == {"persons": 1}
    (view,) = api.ok("GET", "/v1/erasures")["items"]
    assert (view["certificate"]["person"], view["certificate"]["actor"]) == ("ann", "server")
    assert [one["id"] for one in api.ok("GET", "/v1/collections/default/persons")["items"]] == [
        "bob"
    ]


def test_without_a_grace_nobody_is_erased(make_api, helpers, clock):
    api = make_api()
    api.person("Ann", helpers.unit_vector(1), expires_at=rfc3339(clock.now()))
    clock.advance(10_000 * DAY)
    assert _swept(api.services.retention.run()) == {}


def test_transactions_are_small_and_told_by_counts(make_api, helpers, clock, monkeypatch):
    monkeypatch.setattr("match_server.services.privacy.retention._AT_ONCE", 4)
    api = make_api(retain_unknown_days=1)
    _sighted(api, helpers, known=0, unknown=10)
    clock.advance(2 * DAY)
    act_as(Actor())
    assert _swept(api.services.retention.run())["events"] == 10
    notified = api.ok("GET", "/v1/audit?action=retention_events")["items"]
    assert [one["details"]["events"] for one in notified] == [2, 4, 4]
    assert {one["actor"] for one in notified} == {"server"}


def test_sightings_of_a_collection_that_is_gone_go_by_the_servers_settings(
    make_api, helpers, clock
):
    api = make_api(retain_unknown_days=1)
    _sighted(api, helpers, known=0, unknown=1)
    with api.services.database.write() as session:
        session.query(Event).update({"collection_number": None})
    clock.advance(2 * DAY)
    assert _swept(api.services.retention.run(), None)["events"] == 1


def test_what_comes_while_it_sweeps_stays(make_api, helpers, clock, monkeypatch):
    """A sighting that is seen again between two portions is no longer old."""
    api = make_api(retain_unknown_days=1)
    _sighted(api, helpers, known=0, unknown=1)
    clock.advance(2 * DAY)
    (fresh,) = _sighted(api, helpers, known=0, unknown=1)
    delete = RetentionSweep._delete_events

    def once_more(sweep, limits):
        result = delete(sweep, limits)
        _sighted(api, helpers, known=0, unknown=1)
        return result

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(RetentionSweep, "_delete_events", once_more)
        api.services.retention.run()
    assert api.ok("GET", f"/v1/events/{fresh}")["id"] == fresh


# -- periodic tasks ---------------------------------------------------------------------------


def _leader(services):
    return leader_lock(services.database, "housekeeping", services.settings.data_dir)


def test_tasks_are_done_when_due_and_a_failure_stops_no_other(make_services, clock, caplog):
    services = make_services()
    done = []

    def fail():
        done.append("fails")
        raise MusterError("not now")

    tasks = [Task("fails", 10, fail, alone=False)]
    tasks += [Task("each", 10, lambda: done.append("each"), alone=False)]
    tasks += [Task("alone", 30, lambda: done.append("alone"), alone=True)]
    keeper = Housekeeper(tasks, _leader(services), clock)
    keeper.tick()
    assert done == []
    for _ in range(3):
        clock.advance(10)
        keeper.tick()
    assert done == ["fails", "each"] * 3 + ["alone"]
    assert "not now" in str([vars(record) for record in caplog.records])
    other = Housekeeper(tasks, _leader(services), clock)
    clock.advance(31)
    keeper.tick()
    del done[:]
    clock.advance(5)
    other.tick()
    assert "alone" not in done
    keeper.stop()
    other.stop()


def test_when_a_key_was_used_is_written_now_and_then(api, clock):
    api.ok("GET", "/v1/collections", "viewer")
    key_id = api.key("viewer").split("_")[1]

    def last_used():
        return {one["id"]: one["last_used_at"] for one in api.ok("GET", "/v1/keys")["items"]}[
            key_id
        ]

    assert last_used() is None
    used_at = rfc3339(clock.now())
    clock.advance(30)
    api.services.keys.note_used()
    assert last_used() == used_at


def test_a_closing_process_leaves_nothing_unwritten(make_api, helpers):
    api, other = make_api(), make_api()
    api.search(helpers.unit_vector(1))
    api.services.close()
    result = other.ok("GET", "/v1/audit?action=POST /v1/collections/<collection>/search")
    assert result["total"] == 1
