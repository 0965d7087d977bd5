"""The live stream: it sends every sighting in order, also after a reconnect."""

import json
from datetime import timedelta

import pytest

from match_server.app import create_app
from match_server.schemas.keys import KeyCreate
from shared.ids import new_id

STREAM = "/v1/events/stream"


class Stream:
    """Reads a stream message by message, without heartbeats."""

    def __init__(self, api, **arguments):
        self.response = api.call("GET", STREAM, "viewer", buffered=False, **arguments)
        assert self.response.status_code == 200
        self._chunks = iter(self.response.response)
        self.first = next(self._chunks)

    def next(self):
        for chunk in self._chunks:
            text = chunk.decode() if isinstance(chunk, bytes) else chunk
            fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if ": " in line)
            if "event" in fields:
                return int(fields["id"]), fields["event"], json.loads(fields["data"])
        return None

    def close(self):
        self.response.close()


@pytest.fixture
def follow(api):
    opened = []

    def open_stream(**arguments):
        opened.append(Stream(api, **arguments))
        return opened[-1]

    yield open_stream
    for stream in opened:
        stream.close()


def test_a_sighting_is_created_and_updated_in_the_stream(api, helpers, follow):
    api.person("Ann", helpers.unit_vector(1))
    api.send(api.probe(helpers.unit_vector(9)))  # before the stream: not sent
    stream = follow()
    track = "01a203dc-d1ba-7d44-99e4-4cda1934ccb9"
    api.send(api.probe(helpers.unit_vector(2), track_id=track))
    _, kind, event = stream.next()
    assert (kind, event["decision"]) == ("created", "unknown")
    api.send(api.probe(helpers.unit_vector(1), track_id=track, sequence=2))
    _, kind, again = stream.next()
    assert (kind, again["id"], again["person"]["name"]) == ("updated", event["id"], "Ann")


def test_a_stream_resumes_after_the_last_event_id(api, helpers, follow):
    stream = follow()
    probes = [api.probe(helpers.unit_vector(seed), sequence=seed) for seed in range(1, 6)]
    api.send(probes[0])
    seen, _, _ = stream.next()
    stream.close()
    api.send(*probes[1:])
    resumed = follow(headers={"Last-Event-ID": str(seen)})
    tracks = [resumed.next()[2]["track_id"] for _ in range(4)]
    assert tracks == [probe["track_id"] for probe in probes[1:]]


def test_more_events_than_a_batch_all_come(api, helpers, follow):
    for start in range(0, 120, 60):
        numbers = range(start + 1, start + 61)
        api.send(*(api.probe(helpers.unit_vector(n), sequence=n) for n in numbers))
    stream = follow(headers={"Last-Event-ID": "0"})
    revisions = [stream.next()[0] for _ in range(120)]
    assert revisions == sorted(set(revisions))


def test_an_erasure_is_an_update_without_the_name(api, helpers, follow):
    person = api.person("Ann", helpers.unit_vector(1))
    api.send(api.probe(helpers.unit_vector(1)))
    stream = follow()
    api.ok("DELETE", f"/v1/collections/default/persons/{person}")
    _, kind, event = stream.next()
    assert (kind, event["person"], event["person_erased"]) == ("updated", None, True)


def test_a_filtered_stream_sends_only_matching_events(api, helpers, follow):
    stream = follow(query_string={"camera": "back"})
    for camera in ("front", "back"):
        api.send(api.probe(helpers.unit_vector(1), camera=camera))
    assert stream.next()[2]["camera"] == "back"


def test_streams_are_limited_until_one_is_closed(make_api):
    api = make_api(max_streams=2)
    first, second = Stream(api), Stream(api)
    refused = api.refused(503, "GET", STREAM, "viewer")
    assert refused["code"] == "unavailable"
    first.close()
    third = Stream(api)
    second.close()
    third.close()


def test_a_stream_ends_when_the_process_ends(make_services, helpers):
    services = make_services()
    stopping = []
    app = create_app(services, b"s" * 32, stopping=lambda: bool(stopping), follow=False)
    key = services.keys.create(KeyCreate(role="viewer", name="x")).key
    headers = {"Authorization": f"Bearer {key}"}
    response = app.test_client().get(STREAM, headers=headers, buffered=False)
    chunks = iter(response.response)
    next(chunks)
    stopping.append(True)
    assert list(chunks) == []
    response.close()


@pytest.mark.parametrize("last_event_id", ["x", "-1", "1.5", "9" * 30, "\u0663"])
def test_an_invalid_last_event_id_is_refused(api, last_event_id):
    response = api.call(
        "GET", STREAM, "viewer", environ_overrides={"HTTP_LAST_EVENT_ID": last_event_id}
    )
    assert response.status_code == 400


def test_a_merged_sighting_is_sent_as_merged(api, helpers, follow):
    api.person("Ann", helpers.unit_vector(1))
    api.send(api.probe(helpers.unit_vector(1)))
    track = "01a203dc-d1ba-7d44-99e4-4cda1934ccb9"
    stranger = api.send(api.probe(helpers.unit_vector(2), track_id=track))[0]["event"]
    stream = follow()
    ann = api.send(api.probe(helpers.unit_vector(1), track_id=track, sequence=2))[0]["event"]
    events = {kind: event for _, kind, event in (stream.next(), stream.next())}
    assert events["updated"]["id"] == ann["id"]
    assert events["merged"]["id"] == stranger["id"]
    assert events["merged"]["merged_into"] == ann["id"]


def test_a_live_event_is_not_live_when_a_stream_sends_it_later(api, helpers, follow):
    assert api.send(api.probe(helpers.unit_vector(1)))[0]["event"]["live"]
    api.clock.advance(11)
    stream = follow(headers={"Last-Event-ID": "0"})
    assert not stream.next()[2]["live"]


def test_a_stream_ends_when_its_key_is_revoked_or_expires(api, helpers):
    soon = api.clock.now() + timedelta(hours=1)
    for end in ("revoked", "expired"):
        made = api.services.keys.create(KeyCreate(role="viewer", name=end, expires_at=soon))
        api.keys["viewer"] = made.key
        stream = Stream(api)
        api.send(api.probe(helpers.unit_vector(1), track_id=new_id()))
        assert stream.next() is not None
        api.send(*(api.probe(helpers.unit_vector(1), track_id=new_id()) for _ in range(2)))
        if end == "revoked":
            api.services.keys.revoke(made.id)
        else:
            api.clock.advance(3600)
        assert stream.next() is None
        stream.close()
