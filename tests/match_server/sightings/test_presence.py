"""Persons in view of cameras, from track messages, corrected by health messages."""

import pytest

from shared.ids import new_id


@pytest.fixture
def box(api):
    return Box(api)


class Box:
    """The messages of a device with one camera."""

    def __init__(self, api):
        self._api = api

    def health(self, *cameras, ago_s=0.0):
        """Cameras as (name, state, faces in view)."""
        cameras_in_message = [
            {"camera": name, "state": state, "fps": 5.0, "frames": 9, "dropped": 0, "in_view": seen}
            for name, state, seen in cameras
        ]
        self._api.clock.advance(-ago_s)
        at = self._api.clock.now().isoformat()
        self._api.clock.advance(ago_s)
        message = {"device": "door-1", "at": at, "version": "1", "model_id": "m", "uptime_s": 5.0}
        message |= {"processors": 4, "memory_bytes": 1, "waiting": 0, "dropped": 0}
        path = "/v1/devices/door-1/health"
        self._api.ok("POST", path, "device", json=message | {"cameras": cameras_in_message})

    def track(self, state, in_view, track=None):
        track, now = track or new_id(), self._api.clock.now().isoformat()
        body = {"device": "door-1", "camera": "front", "track_id": track, "state": state}
        body |= {"at": now, "began_at": now, "in_view": in_view, "probes": 0}
        self._api.ok("POST", "/v1/tracks", "device", json=body)
        return track

    def seen(self):
        """For each camera: whether it is online, and its faces in view."""
        items = self._api.ok("GET", "/v1/presence")["items"]
        return {one["camera"]: (one["online"], one["in_view"]) for one in items}


def test_a_camera_is_known_before_anybody_passes(box):
    box.health(("front", "running", 0), ("yard", "lost", 0))
    assert box.seen() == {"front": (True, 0), "yard": (False, 0)}


def test_who_left_unheard_is_not_in_view_for_ever(api, box, helpers):
    api.person("Ann", helpers.unit_vector(1))
    track = box.track("began", 1)
    api.send(api.probe(helpers.unit_vector(1), track_id=track))
    assert box.seen() == {"front": (True, 1)}
    api.clock.advance(20)
    box.health(("front", "running", 0))
    assert box.seen() == {"front": (True, 0)}


def test_health_from_before_the_last_track_changes_nothing(api, box):
    api.clock.advance(20)
    track = box.track("began", 1)
    box.health(("front", "running", 0), ago_s=1)
    api.clock.advance(2)
    box.health(("front", "running", 0))  # both messages may have crossed
    assert box.seen() == {"front": (True, 1)}
    box.track("ended", 0, track)
    assert box.seen() == {"front": (True, 0)}


def test_a_camera_without_pictures_is_offline_until_something_is_seen_again(api, box):
    box.track("began", 1)
    api.clock.advance(10)
    box.health(("front", "stalled", 1))
    assert box.seen() == {"front": (False, 0)}
    api.clock.advance(10)
    box.track("began", 1)
    assert box.seen() == {"front": (True, 1)}
    api.clock.advance(20)
    box.health(("front", "running", 1))
    assert box.seen() == {"front": (True, 1)}


def test_a_camera_that_its_box_has_no_more_is_forgotten(api, box):
    box.track("began", 1)
    api.clock.advance(30)
    box.health(("gate", "running", 0))
    assert set(box.seen()) == {"front", "gate"}
    api.clock.advance(100)
    box.health()  # a device without models reports no cameras
    assert set(box.seen()) == {"front", "gate"}
    box.health(("gate", "running", 0))
    assert set(box.seen()) == {"gate"}


def test_a_face_in_view_is_undecided_until_a_search_has_answered_and_its_sighting_is_named(
    api, box, helpers
):
    api.person("Ann", helpers.unit_vector(1))
    tracks = [box.track("began", in_view) for in_view in (1, 2, 3)]
    events = [
        api.send(api.probe(helpers.unit_vector(seed), track_id=track))[0]["event"]["id"]
        for seed, track in ((1, tracks[0]), (7, tracks[1]))
    ]
    (seen,) = api.ok("GET", "/v1/presence")["items"]
    assert [one["name"] for one in seen["persons"]] == ["Ann"]
    assert (seen["in_view"], seen["unknown"], seen["undecided"]) == (3, 1, 1)
    assert seen["sightings"] == events[::-1]
    api.clock.advance(600)  # a person who stands still gives no new shot
    box.health(("front", "running", 3))
    (seen,) = api.ok("GET", "/v1/presence")["items"]
    assert (seen["in_view"], seen["sightings"]) == (3, events[::-1])
