"""Lists of probes: one search, one commit, and only short work inside the write lock."""

import contextlib
import json
from datetime import timedelta
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import event

from match_server.db.tables import Probe
from shared.gallery import MemoryIndex


def _commits(api):
    """Counts the transactions that are committed from now on."""
    counted = []
    event.listen(api.services.database._engine, "commit", lambda _connection: counted.append(1))
    return counted


def test_a_list_of_probes_is_kept_by_one_commit(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    api.key("device")
    commits = _commits(api)
    probes = [
        api.probe(helpers.unit_vector(1), sequence=n, camera=f"camera-{n}") for n in range(1, 21)
    ]
    results = api.send(*probes)
    assert {one["status"] for one in results} == {"accepted"}
    assert len(commits) == 1
    revisions = [one["event"]["revision"] for one in results]
    assert revisions == list(range(revisions[0], revisions[0] + 20))
    for result in results:
        assert api.ok("GET", f"/v1/events/{result['event']['id']}") == result["event"]


def test_the_probes_of_one_track_in_a_list_end_as_they_would_one_by_one(api, helpers):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    api.person("Bob", helpers.unit_vector(2))
    vectors = [helpers.unit_vector(9), helpers.unit_vector(8, near=ann, similarity=0.6), ann]
    vectors += [helpers.unit_vector(7), helpers.unit_vector(6, near=ann, similarity=0.5)]

    def sent(track, camera, send):
        probes = [
            api.probe(
                vector,
                track_id=track,
                camera=camera,
                sequence=n,
                thumbnail=helpers.thumbnail(n),
            )
            for n, vector in enumerate(vectors, start=1)
        ]
        fields = ("decision", "similarity", "probes", "candidates", "person")
        return [{name: one["event"][name] for name in fields} for one in send(probes)]

    together = sent(
        "01a203dc-d1ba-7d44-99e4-4cda1934ccb9", "front", lambda probes: api.send(*probes)
    )
    single = sent(
        "01a203dc-d1ba-7d44-99e4-4cda1934cccc",
        "back",
        lambda probes: [api.send(one)[0] for one in probes],
    )
    assert together == single
    assert [one["decision"] for one in single] == ["unknown"] + ["identified"] * 4
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 2


def test_a_probe_of_a_device_that_the_key_may_not_speak_for_leaves_the_whole_list_out(api, helpers):
    key = api.ok("POST", "/v1/keys", json={"role": "device", "device": "door-2"})["key"]
    headers = {"Authorization": f"Bearer {key}"}
    probes = [api.probe(helpers.unit_vector(1), device=name) for name in ("door-2", "door-1")]
    api.refused(403, "POST", "/v1/probes", None, headers=headers, json=probes)
    assert api.ok("GET", "/v1/events")["items"] == []


def test_the_same_refused_probe_twice_is_refused_twice(api, helpers):
    foreign = {**api.probe(helpers.unit_vector(1)), "model_id": "other@2"}
    assert [one["status"] for one in api.send(foreign, foreign)] == ["refused", "refused"]


def test_who_was_erased_after_the_search_is_not_named(api, helpers, monkeypatch):
    vector = helpers.unit_vector(1)
    ann = api.person("Ann", vector)
    bob = api.person("Bob", helpers.unit_vector(2, near=vector, similarity=0.7))
    kept = api.services.files.kept_thumbnails

    @contextlib.contextmanager
    def erase_meanwhile(thumbnails):
        monkeypatch.undo()
        api.ok("DELETE", f"/v1/collections/default/persons/{ann}")
        with kept(thumbnails) as files:
            yield files

    monkeypatch.setattr(api.services.files, "kept_thumbnails", erase_meanwhile)
    event_ = api.send(api.probe(vector))[0]["event"]
    assert event_["person"]["id"] == bob
    assert [one["person"]["id"] for one in event_["candidates"]] == [bob]
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 1


def test_an_enrollment_after_the_search_costs_no_second_search(api, helpers, monkeypatch):
    vector = helpers.unit_vector(1)
    api.person("Ann", vector)
    kept, searches = api.services.files.kept_thumbnails, []
    search = MemoryIndex.search

    def counted(self, *arguments, **options):
        searches.append(1)
        return search(self, *arguments, **options)

    @contextlib.contextmanager
    def enroll_meanwhile(thumbnails):
        monkeypatch.setattr(api.services.files, "kept_thumbnails", kept)
        api.person("Bob", helpers.unit_vector(2))
        with kept(thumbnails) as files:
            yield files

    monkeypatch.setattr(api.services.files, "kept_thumbnails", enroll_meanwhile)
    monkeypatch.setattr(MemoryIndex, "search", counted)
    assert api.send(api.probe(vector))[0]["event"]["person"]["name"] == "Ann"
    assert len(searches) == 1


def test_nobody_waits_for_a_search_that_holds_the_write_lock(api, helpers, monkeypatch):
    probe = helpers.unit_vector(1)
    many = api.person("Many")
    for seed in range(30):  # enough templates that the first search is repeated with a longer list
        api.template(many, helpers.unit_vector(200 + seed, near=probe, similarity=0.8))
    api.person("Few", helpers.unit_vector(2, near=probe, similarity=0.3))
    search, held = MemoryIndex.search, []

    def watched(self, *arguments, **options):
        held.append(api.services.database._write_lock._lock.locked())
        return search(self, *arguments, **options)

    monkeypatch.setattr(MemoryIndex, "search", watched)
    event_ = api.send(api.probe(probe))[0]["event"]
    assert [one["person"]["name"] for one in event_["candidates"]] == ["Many", "Few"]
    api.search(probe)
    assert len(held) >= 3
    assert not any(held)


def test_a_probe_whose_sighting_is_gone_is_still_a_duplicate(api, helpers):
    probe = api.probe(helpers.unit_vector(1))
    api.send(probe)
    with api.services.database.write() as session:
        row = session.get(Probe, probe["probe_id"])
        row.event_id = None
    (again,) = api.send(probe)
    assert (again["status"], again["event"]) == ("duplicate", None)


@pytest.mark.parametrize("seed", range(4))
def test_random_probes_in_lists_end_as_they_would_one_by_one(api, helpers, seed):
    random = Random(seed)
    policy = {"sighting_s": 30, "margin": 0.05, "candidates": 2}
    api.ok("PATCH", "/v1/collections/default", json={"policy": policy})
    faces = [helpers.unit_vector(100 * seed + number) for number in range(5)]
    for number, face in enumerate(faces[:3]):  # the others are strangers
        api.person(f"Person {number}", face)
    lists = [
        [_random_probe(random, helpers, faces) for _ in range(random.randint(1, 24))]
        for _ in range(6)
    ]
    numbers = dict.fromkeys(("together", "single"), 0)
    for probes in lists:
        for camera in numbers:
            messages = []
            for fields in probes:
                numbers[camera] += 1
                messages.append(_message(api, helpers, camera, numbers[camera], **fields))
            for portion in [messages] if camera == "together" else [[one] for one in messages]:
                assert {one["status"] for one in api.send(*portion)} == {"accepted"}
        api.clock.advance(random.choice((0, 5, 40)))
    together, single = (_events_of(api, camera) for camera in numbers)
    assert together == single
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 2 * len(single)


def _random_probe(random, helpers, faces):
    """Fields of a probe: of one of eight tracks, mostly of the track's face."""
    track = random.randrange(8)
    face = random.choice(faces) if random.random() < 0.15 else faces[track % len(faces)]
    similarity = random.choice((0.45, 0.6, 0.8, 0.95))
    return {
        "track": track,
        "vector": helpers.unit_vector(random.getrandbits(30), near=face, similarity=similarity),
        "ago_s": random.choice((0, 1, 3, 20)),
        "score": random.choice((0.3, 0.6, 0.9)),
        "shots": random.choice((1, 1, 1, 4)),
    }


def _message(api, helpers, camera, sequence, *, track, vector, ago_s, score, shots):
    return helpers.probe_message(
        vector,
        api.clock.now() - timedelta(seconds=ago_s),
        device=f"box-{camera}",
        camera=camera,
        sequence=sequence,
        track_id=str(UUID(bytes=f"{camera:_<15}{track}".encode(), version=4)),
        quality={"score": score, "factors": []},
        shots=shots,
    )


def _events_of(api, camera):
    """The events of a camera without what differs between two cameras."""
    events = api.ok("GET", "/v1/events", query_string={"camera": camera, "size": 200})["items"]
    own = {"id", "revision", "device", "camera", "track_id", "snapshot"}
    kept = [{name: event[name] for name in event.keys() - own} for event in events]
    return sorted(json.dumps(event, sort_keys=True) for event in kept)
