"""Devices: created, enrolled by a code, their health and ledger, configured, deleted."""

import random

import pytest
from sqlalchemy import select

from match_server.db.tables import DeviceCode, DeviceHealth
from match_server.services.devices.enrollment_codes import VALID_S
from shared.enrollment_code import Invitation, plain_code
from tests.support.health_reports import health


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def create(api, name="door-1", **more):
    return api.ok("POST", "/v1/devices", json={"name": name, **more})


class TestTheirLife:
    def test_a_new_device_gets_a_key_that_speaks_for_it_alone(self, api, helpers):
        made = create(api, site="hq")
        assert made["online"] is False
        assert made["valid_keys"] == 1
        as_box = {"role": None, "headers": bearer(made["key"])}
        api.ok("POST", "/v1/devices/door-1/health", **as_box, json=health(api.clock))
        other = health(api.clock, "door-2")
        api.refused(403, "POST", "/v1/devices/door-2/health", **as_box, json=other)
        api.refused(400, "POST", "/v1/devices/door-1/health", **as_box, json=other)
        api.refused(403, "GET", "/v1/devices/door-2/config", **as_box)
        api.refused(403, "GET", "/v1/devices", **as_box)
        probe = api.probe(helpers.unit_vector(1), device="door-2")
        api.refused(403, "POST", "/v1/probes", **as_box, json=probe)
        api.refused(409, "POST", "/v1/devices", json={"name": "door-1"})

    def test_its_probes_search_the_collection_that_it_was_given(self, api, helpers):
        api.ok("POST", "/v1/collections", json={"name": "staff"})
        create(api, collection="staff")
        api.person("Ann", helpers.unit_vector(1))
        (kept,) = api.send(api.probe(helpers.unit_vector(1)))
        assert kept["event"]["collection"] == "staff"
        assert kept["event"]["decision"] == "unknown"
        changed = api.ok("PATCH", "/v1/devices/door-1", json={"collection": None})
        assert changed["collection"] is None
        (kept,) = api.send(api.probe(helpers.unit_vector(1), sequence=2))
        assert kept["event"]["person"]["name"] == "Ann"
        api.refused(404, "PATCH", "/v1/devices/door-1", json={"collection": "nobody"})

    def test_the_list_is_paged_and_filtered(self, api):
        for name, site in (("door-1", "hq"), ("door-2", "hq"), ("gate", "yard")):
            create(api, name, site=site)
        names = [one["name"] for one in api.ok("GET", "/v1/devices", "viewer")["items"]]
        assert names == ["door-1", "door-2", "gate"]
        for query, total in (("site=hq", 2), ("q=GA", 1), ("size=1&page=3", 3), ("site=no", 0)):
            assert api.ok("GET", f"/v1/devices?{query}")["total"] == total
        api.refused(404, "GET", "/v1/devices/nobody")

    def test_a_forgotten_device_is_gone_with_its_keys_and_its_sightings_stay(self, api, helpers):
        made = create(api)
        api.keys["device:door-1"] = made["key"]
        api.send(api.probe(helpers.unit_vector(1)), api.probe(helpers.unit_vector(2), sequence=5))
        api.ok("POST", "/v1/devices/door-1/health", json=health(api.clock))
        api.ok("PUT", "/v1/devices/door-1/config", json={"config": {"log_level": "DEBUG"}})
        api.ok("POST", "/v1/devices/door-1/codes")
        erased = api.ok("DELETE", "/v1/devices/door-1")
        assert erased == {"device": "door-1", "keys_revoked": 1, "ledger_days": 0}
        api.refused(404, "GET", "/v1/devices/door-1")
        api.refused(401, "POST", "/v1/probes", None, headers=bearer(made["key"]), json=[])
        assert api.ok("GET", "/v1/events")["total"] == 2
        assert create(api)["sequence"]["missing"] == 0

    def test_it_is_online_while_it_is_heard(self, api):
        create(api)
        api.ok("POST", "/v1/devices/door-1/health", json=health(api.clock))
        assert api.ok("GET", "/v1/devices/door-1")["online"] is True
        api.clock.advance(91)
        assert api.ok("GET", "/v1/devices/door-1")["online"] is False


class TestTheirNumbers:
    def gaps(self, api):
        result = api.ok("GET", "/v1/devices/door-1")
        runs = [(one["first"], one["last"]) for one in result["gaps"]]
        assert result["sequence"]["missing"] == sum(last - first + 1 for first, last in runs)
        return runs

    def test_missing_numbers_are_named_until_they_come(self, api, helpers):
        def send(*numbers):
            vector = helpers.unit_vector(1)
            api.send(*[api.probe(vector, sequence=number) for number in numbers])

        send(4, 5)
        assert self.gaps(api) == []
        send(10)
        assert self.gaps(api) == [(6, 9)]
        send(7)
        assert self.gaps(api) == [(8, 9), (6, 6)]
        send(1, 20)
        assert self.gaps(api) == [(11, 19), (8, 9), (6, 6), (2, 3)]
        send(6, 9, 8, 2, 3, *range(11, 20))
        assert self.gaps(api) == []
        send(5)  # again: a box that lost its memory
        assert self.gaps(api) == []

    def test_whatever_the_order_the_gaps_are_those_of_a_set(self, api, helpers):
        chance = random.Random(7)
        numbers = chance.sample(range(1, 60), 40)
        vector = helpers.unit_vector(1)
        api.send(*[api.probe(vector, sequence=number) for number in numbers])
        missing = set(range(min(numbers), max(numbers))) - set(numbers)
        named = {one for first, last in self.gaps(api) for one in range(first, last + 1)}
        assert named == missing


class TestTheirHealth:
    def test_the_answer_tells_the_time_and_the_wanted_revision(self, api):
        create(api)
        message = health(api.clock)
        api.clock.advance(3.25)
        answer = api.ok("POST", "/v1/devices/door-1/health", "device", json=message)
        assert answer["answers"] == message["at"].replace("+00:00", "Z")
        assert answer["at"] == "2026-11-22T12:00:03.373456Z"
        assert answer["config_revision"] == 0
        api.ok("PUT", "/v1/devices/door-1/config", json={"config": {"log_level": "DEBUG"}})
        answer = api.ok("POST", "/v1/devices/door-1/health", "device", json=message)
        assert answer["config_revision"] == 1

    def test_the_newest_is_shown_and_an_hour_of_it_kept(self, api):
        for number in range(125):
            message = health(api.clock, waiting=number, temperature_c=50.0 + number / 10)
            api.ok("POST", "/v1/devices/door-1/health", "device", json=message)
            api.clock.advance(30)
        shown = api.ok("GET", "/v1/devices/door-1", "viewer")
        assert shown["health"]["waiting"] == 124
        assert shown["health"]["throttled"] is None
        assert [one["waiting"] for one in shown["history"]] == list(range(5, 125))
        with api.services.database.read() as session:
            assert len(session.scalars(select(DeviceHealth)).all()) == 120

    def test_a_number_that_no_page_can_show_is_refused(self, api):
        """The sum of two such rates is infinite, and no list of devices could be read."""
        camera = {"state": "running", "fps": 1e308, "frames": 1, "dropped": 0}
        cameras = [{**camera, "camera": name} for name in ("front", "back")]
        for odd in ({"cameras": cameras}, {"load_1m": 1e308}, {"clock_offset_s": -1e308}):
            message = health(api.clock, **odd)
            api.refused(400, "POST", "/v1/devices/door-1/health", "device", json=message)
        assert api.ok("GET", "/v1/devices", "viewer")["total"] == 0

    def test_totals_of_a_day_replace_those_before(self, api):
        def say(tracks, day="2026-11-22", camera="front", **reasons):
            day = {
                "camera": camera,
                "day": day,
                "tracks": tracks,
                "with_probe": tracks - sum(reasons.values()),
                "reasons": reasons,
            }
            body = health(api.clock, ledger=[day])
            api.ok("POST", "/v1/devices/door-1/health", "device", json=body)

        say(3, yaw=1)
        say(9, yaw=2, pitch=1, interocular=4)
        say(2, "2026-11-21", sharpness=2)
        say(1, camera="back")
        result = api.ok("GET", "/v1/devices/door-1/ledger", "viewer")["items"]
        assert [(one["day"], one["camera"], one["tracks"]) for one in result] == [
            ("2026-11-22", "back", 1),
            ("2026-11-22", "front", 9),
            ("2026-11-21", "front", 2),
        ]
        assert result[1]["with_probe"] == 2
        assert result[1]["in_plain_terms"] == {"too small": 4, "turned away": 3}
        path = "/v1/devices/door-1/ledger?until=2026-11-21"
        assert [one["day"] for one in api.ok("GET", path)["items"]] == ["2026-11-21"]
        api.refused(400, "GET", "/v1/devices/door-1/ledger?since=0")


class TestTheirConfiguration:
    def report(self, api, state, revision, tried, message=None):
        body = {
            "device": "door-1",
            "revision": revision,
            "state": state,
            "tried": tried,
            "message": message,
            "config": {"cameras": []},
            "at": api.clock.now().isoformat(),
        }
        api.ok("PUT", "/v1/devices/door-1/config/reported", "device", json=body)
        return api.ok("GET", "/v1/devices/door-1")["config"]

    def desire(self, api, **config):
        return api.ok("PUT", "/v1/devices/door-1/config", json={"config": config})

    def test_its_state_is_what_the_box_made_of_the_newest_revision(self, api):
        create(api)
        assert api.ok("GET", "/v1/devices/door-1")["config"]["state"] == "none"
        assert self.desire(api, shots={"gate": "off"})["revision"] == 1
        assert self.desire(api, shots={"gate": "off"})["revision"] == 1  # nothing new
        assert api.ok("GET", "/v1/devices/door-1")["config"]["state"] == "waiting"
        assert self.report(api, "trying", 0, 1)["state"] == "trying"
        assert self.report(api, "applied", 1, 1)["running_revision"] == 1
        assert self.desire(api, shots={"gate": "passport"})["revision"] == 2
        assert api.ok("GET", "/v1/devices/door-1")["config"]["state"] == "waiting"
        state = self.report(api, "rolled_back", 1, 2, "camera front gave no picture in 60 s")
        assert state == {
            "desired_revision": 2,
            "running_revision": 1,
            "state": "rolled_back",
            "message": "camera front gave no picture in 60 s",
        }
        view = api.ok("GET", "/v1/devices/door-1/config", "device")
        assert view["config"] == {"shots": {"gate": "passport"}}
        assert view["reported"]["config"] == {"cameras": []}

    @pytest.mark.parametrize("name", ["device", "site", "state_dir", "server", "broker"])
    def test_who_it_is_and_whom_it_obeys_stay_its_own_business(self, api, name):
        create(api)
        body = {"config": {name: "x"}}
        refused = api.refused(400, "PUT", "/v1/devices/door-1/config", json=body)
        assert "from its own file only" in refused["message"]

    def test_models_that_its_collection_does_not_have_are_refused(self, api):
        create(api)
        body = {"config": {"models": {"pack": "compact"}}}
        refused = api.refused(409, "PUT", "/v1/devices/door-1/config", json=body)
        assert "painted-512@1" in refused["message"]
        assert refused["code"] == "model_mismatch"

    def test_viewers_do_not_see_addresses_of_cameras(self, api):
        create(api)
        self.desire(api, cameras=[{"name": "a", "source": "rtsp://me:secret@10.0.0.9/1"}])
        for path in ("/v1/devices", "/v1/devices/door-1"):
            assert "secret" not in api.call("GET", path, "viewer").get_data(as_text=True)
        api.refused(403, "GET", "/v1/devices/door-1/config", "viewer")


class TestInvitations:
    def test_a_code_gives_the_key_once_and_ends_the_keys_before(self, api):
        old = create(api, site="hq")["key"]
        made = api.ok("POST", "/v1/devices/door-1/codes")
        typed = made["code"].lower().replace("0", "o").replace("1", "l").replace("-", " ")
        granted = api.ok("POST", "/v1/devices/enroll", None, json={"code": typed})
        assert (granted["device"], granted["site"]) == ("door-1", "hq")
        path = "/v1/devices/door-1/health"
        body = health(api.clock)
        api.ok("POST", path, None, headers=bearer(granted["key"]), json=body)
        api.refused(401, "POST", path, None, headers=bearer(old), json=body)
        api.refused(401, "POST", "/v1/devices/enroll", None, json={"code": made["code"]})

    def test_it_is_kept_as_a_hash_and_a_new_one_replaces_it(self, api):
        create(api)
        first = api.ok("POST", "/v1/devices/door-1/codes")["code"]
        second = api.ok("POST", "/v1/devices/door-1/codes")["code"]
        with api.services.database.read() as session:
            (row,) = session.scalars(select(DeviceCode))
        assert plain_code(second).encode() not in row.digest
        api.refused(401, "POST", "/v1/devices/enroll", None, json={"code": first})
        api.ok("POST", "/v1/devices/enroll", None, json={"code": second})

    def test_it_holds_for_fifteen_minutes(self, api):
        create(api)
        code = api.ok("POST", "/v1/devices/door-1/codes")["code"]
        api.clock.advance(VALID_S)
        api.refused(401, "POST", "/v1/devices/enroll", None, json={"code": code})

    def test_who_guesses_is_slowed_down(self, api):
        create(api)
        code = api.ok("POST", "/v1/devices/door-1/codes")["code"]
        for guess in range(10):
            wrong = {"code": f"0000000{guess}"}
            api.refused(401, "POST", "/v1/devices/enroll", None, json=wrong)
        response = api.call("POST", "/v1/devices/enroll", None, json={"code": code})
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) > 30
        api.clock.advance(61)
        api.ok("POST", "/v1/devices/enroll", None, json={"code": code})

    @pytest.mark.parametrize("code", ["ABCD-123", "ABCDUUUU", "ABCD-12345", "ÄBCD-1234"])
    def test_what_is_no_code_is_malformed(self, api, code):
        api.refused(400, "POST", "/v1/devices/enroll", None, json={"code": code})

    def test_its_address_says_that_it_takes_a_post_alone(self, api):
        response = api.call("OPTIONS", "/v1/devices/enroll")
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")

    def test_only_an_admin_invites(self, api):
        create(api)
        for role in ("enroller", "searcher", "device", "viewer"):
            api.refused(403, "POST", "/v1/devices/door-1/codes", role)
        api.refused(404, "POST", "/v1/devices/nobody/codes")

    def test_the_invitation_says_where_and_whom_to_trust(self, make_api):
        api = make_api(public_url="https://muster.example:8443")
        create(api)
        made = api.ok("POST", "/v1/devices/door-1/codes")
        read = Invitation.read(made["invitation"])
        assert read == Invitation("https://muster.example:8443", plain_code(made["code"]))
