"""The change feed for followers: a snapshot and the changes of the gallery they may hold."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.wire.change_feed import FeedChanges, FeedTemplates

STAFF = "/v1/collections/default/persons"


def follow(api, *, role="device", device="door-1", **query):
    query = {"collection": "default", "since": 0, **query}
    if role == "device":
        query["device"], role = device, f"device:{device}"
    return FeedChanges.model_validate(api.ok("GET", "/v1/changes", role, query_string=query))


def snapshot(api, *, role="device", device="door-1", **query):
    query = {"collection": "default", **query}
    if role == "device":
        query["device"], role = device, f"device:{device}"
    response = api.call("GET", "/v1/snapshot", role, query_string=query)
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.mimetype == "application/x-ndjson"
    lines = response.get_data().splitlines(keepends=True)
    head, *parts, end = [json.loads(line) for line in lines]
    assert [head["kind"], end["kind"]] == ["head", "end"]
    assert end["sha256"] == hashlib.sha256(b"".join(lines[1:-1])).hexdigest()
    held = {}
    for part in parts:
        templates = FeedTemplates.model_validate(part["templates"])
        rows = templates.rows(head["gallery"]["dimension"])
        names = {one["number"]: one for one in part["persons"]}
        for number, person, row in zip(templates.numbers, templates.persons, rows, strict=True):
            held[number] = (names[person], row)
    assert end["templates"] == len(held)
    return head, held


def grant(api, *groups, device="door-1", **more):
    body = {"galleries": [{"collection": "default", "groups": list(groups), **more}]}
    return api.ok("PUT", f"/v1/devices/{device}/galleries", json=body)


def ids(held):
    return sorted(person["id"] for person, _ in held.values())


def group(api, name):
    return api.ok("POST", "/v1/groups", json={"collection": "default", "id": name, "name": name})


def members(api, name, **change):
    api.ok("PUT", f"/v1/groups/{name}/persons", json={"add": [], "remove": [], **change})


def test_a_snapshot_holds_everybody_and_the_number_to_go_on_from(api, helpers):
    grant(api)
    vectors = {name: helpers.unit_vector(seed) for seed, name in enumerate(("amy", "bob"))}
    for name, vector in vectors.items():
        api.person(name.title(), vector, id=name)
    head, held = snapshot(api)
    assert ids(held) == ["amy", "bob"]
    assert head["gallery"]["model_id"] == helpers.MODEL
    assert head["gallery"]["threshold"] == pytest.approx(0.35)
    for person, row in held.values():
        assert row.tobytes() == vectors[person["id"]].astype("<f2").tobytes()
        assert "name" not in person
    after = follow(api, since=head["seq"], scope=head["gallery"]["scope"])
    assert (after.seq, after.more, after.persons) == (head["seq"], False, [])


def test_names_are_told_only_where_they_were_given(api, helpers):
    api.person("Amy Farrah", helpers.unit_vector(1), id="amy")
    grant(api, names=True)
    _, held = snapshot(api)
    assert [person["name"] for person, _ in held.values()] == ["Amy Farrah"]


def test_a_snapshot_cut_short_goes_on_where_it_was_cut(api, helpers):
    grant(api)
    for seed in range(5):
        api.person(f"P{seed}", helpers.unit_vector(seed))
    _, held = snapshot(api)
    third = sorted(held)[2]
    _, rest = snapshot(api, after=third)
    assert sorted(rest) == sorted(held)[3:]


def test_changes_tell_how_it_is_now_and_not_what_has_been_erased_since(api, helpers):
    grant(api)
    head, _ = snapshot(api)
    api.person("Amy", helpers.unit_vector(1), id="amy")
    gone = api.person("Bob", helpers.unit_vector(2), id="bob")
    api.ok("DELETE", f"{STAFF}/{gone}")
    changes = follow(api, since=head["seq"])
    assert [one.id for one in changes.persons] == ["amy"]
    assert len(changes.templates.numbers) == 1
    assert len(changes.removed) == 1  # a number that this follower never had: it does no harm
    again = follow(api, since=changes.seq)
    assert (again.persons, again.removed, again.left) == ([], [], [])


def test_an_erasure_names_the_templates_that_went(api, helpers):
    grant(api)
    person = api.person("Amy", helpers.unit_vector(1))
    api.template(person, helpers.unit_vector(2))
    head, held = snapshot(api)
    api.ok("DELETE", f"{STAFF}/{person}")
    assert sorted(follow(api, since=head["seq"]).removed) == sorted(held)


def test_who_follows_a_group_hears_of_those_who_come_and_go(api, helpers):
    group(api, "night")
    amy = api.person("Amy", helpers.unit_vector(1), id="amy", groups=["night"])
    bob = api.person("Bob", helpers.unit_vector(2), id="bob")
    grant(api, "night")
    head, held = snapshot(api)
    assert ids(held) == ["amy"]
    (number,) = [person["number"] for person, _ in held.values()]
    members(api, "night", add=[bob], remove=[amy])
    changes = follow(api, since=head["seq"])
    assert changes.left == [number]
    assert [one.id for one in changes.persons] == ["bob"]
    assert len(changes.templates.numbers) == 1
    api.template(amy, helpers.unit_vector(3))  # persons outside of the group are not sent
    later = follow(api, since=changes.seq)
    assert (later.persons, later.templates.numbers) == ([], [])
    api.ok("PATCH", f"{STAFF}/amy", json={"groups": ["night"]})
    back = follow(api, since=later.seq)
    assert [one.id for one in back.persons] == ["amy"]
    assert len(back.templates.numbers) == 2


def test_erasing_a_group_takes_everybody_from_who_follows_it(api, helpers):
    group(api, "night")
    api.person("Amy", helpers.unit_vector(1), groups=["night"])
    grant(api, "night")
    head, held = snapshot(api)
    assert len(held) == 1
    api.ok("DELETE", "/v1/groups/night")
    assert len(follow(api, since=head["seq"]).left) == 1
    assert snapshot(api)[1] == {}  # and not everybody, now that the group is none any more


def test_who_has_expired_is_told_to_nobody_and_comes_back_when_prolonged(api, helpers):
    grant(api)
    soon = (api.clock.now().replace(hour=13)).isoformat()
    api.person("Amy", helpers.unit_vector(1), id="amy", expires_at=soon)
    head, held = snapshot(api)
    ((person, _),) = held.values()
    assert person["expires_at"].startswith("2026-11-22T13:00")
    api.clock.advance(7200)
    assert snapshot(api)[1] == {}
    api.ok("PATCH", f"{STAFF}/amy", json={"name": "Amy F."})
    assert follow(api, since=head["seq"]).left == [person["number"]]
    api.ok("PATCH", f"{STAFF}/amy", json={"expires_at": None})
    prolonged = follow(api, since=head["seq"])
    assert [one.id for one in prolonged.persons] == ["amy"]
    assert len(prolonged.templates.numbers) == 1


def test_a_long_absence_is_told_in_portions(api, helpers):
    grant(api)
    head, _ = snapshot(api)
    lines = [
        {"name": f"P{n}", "template": helpers.encode(helpers.unit_vector(n)),
         "model_id": helpers.MODEL}
        for n in range(600)
    ]  # fmt: skip
    body = "\n".join(json.dumps(line) for line in lines)
    answer = api.call(
        "POST",
        "/v1/collections/default/enroll",
        data=body,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 200
    answer.get_data()
    numbers, calls, since, more = set(), 0, head["seq"], True
    while more:
        changes = follow(api, since=since)
        numbers |= set(changes.templates.numbers)
        since, more, calls = changes.seq, changes.more, calls + 1
    assert (len(numbers), since) == (600, api.services.collections.position())
    assert calls > 1


def test_a_device_follows_only_what_it_was_given(api, helpers):
    api.person("Amy", helpers.unit_vector(1))
    args = {"collection": "default", "since": 0, "device": "door-1"}
    refused = api.refused(403, "GET", "/v1/changes", "device", query_string=args)
    assert "device gallery --device door-1 --give" in refused["message"]
    del args["since"]
    api.refused(403, "GET", "/v1/snapshot", "device", query_string=args)
    grant(api)
    api.refused(400, "GET", "/v1/snapshot", "device", query_string={**args, "groups": "night"})
    assert len(snapshot(api)[1]) == 1
    for role in ("enroller", "searcher", "viewer"):
        api.refused(403, "GET", "/v1/snapshot", role, query_string={"collection": "default"})
    assert len(snapshot(api, role="admin")[1]) == 1


def test_a_key_of_one_device_does_not_follow_for_another(api, helpers):
    from match_server.schemas.keys import KeyCreate

    grant(api)
    grant(api, device="door-2")
    request = KeyCreate(role="device", name="two", device="door-2")
    api.keys["two"] = api.services.keys.create(request).key
    args = {"collection": "default", "since": 0}
    assert api.ok("GET", "/v1/changes", "two", query_string=args)["seq"] > 0
    api.refused(403, "GET", "/v1/changes", "two", query_string={**args, "device": "door-1"})


def test_a_place_from_which_nobody_can_go_on_is_answered_with_410(api, helpers):
    grant(api)
    head, _ = snapshot(api)
    query = {"collection": "default", "device": "door-1", "scope": head["gallery"]["scope"]}
    ahead = {**query, "since": head["seq"] + 1}
    assert api.refused(410, "GET", "/v1/changes", "device", query_string=ahead)["code"] == (
        "snapshot_needed"
    )
    group(api, "night")
    grant(api, "night")
    same = {**query, "since": head["seq"]}
    assert api.refused(410, "GET", "/v1/changes", "device", query_string=same)["code"] == (
        "snapshot_needed"
    )


def test_followers_are_known_by_what_they_acknowledged(api, helpers):
    grant(api)
    (view,) = api.ok("GET", "/v1/followers")["items"]
    assert (view["seq"], view["behind"]) == (None, None)
    head, _ = snapshot(api, keep_h=48)
    (view,) = api.ok("GET", "/v1/followers")["items"]
    assert view["seq"] == 0
    person = api.person("Amy", helpers.unit_vector(1))
    changes = follow(api, since=head["seq"])
    follow(api, since=changes.seq, keep_h=48)
    erased = api.ok("DELETE", f"{STAFF}/{person}")["seq"]
    (view,) = api.ok("GET", f"/v1/followers?behind={erased}")["items"]
    assert (view["device"], view["seq"], view["behind"]) == ("door-1", changes.seq, 2)
    assert view["forgets_at"].startswith("2026-11-24T12:00")
    reached = follow(api, since=changes.seq, keep_h=48).seq
    assert (
        api.ok("GET", f"/v1/followers?behind={erased}")["total"] == 1
    )  # received, not yet applied
    follow(api, since=reached, keep_h=48)
    assert api.ok("GET", f"/v1/followers?behind={erased}")["total"] == 0


def test_what_is_withdrawn_counts_until_the_box_has_learned_it(api, helpers):
    grant(api)
    snapshot(api)
    api.ok("PUT", "/v1/devices/door-1/galleries", json={"galleries": []})
    (view,) = api.ok("GET", "/v1/followers")["items"]
    assert view["withdrawn_at"] is not None
    args = {"collection": "default", "since": 0, "device": "door-1"}
    api.refused(403, "GET", "/v1/changes", "device", query_string=args)
    assert api.ok("GET", "/v1/followers")["total"] == 0


def test_a_gallery_that_was_never_fetched_is_withdrawn_at_once(api):
    grant(api)
    answer = api.ok("PUT", "/v1/devices/door-1/galleries", json={"galleries": []})
    assert answer["total"] == 0


def test_galleries_of_what_does_not_exist_are_refused(api):
    path = "/v1/devices/door-1/galleries"
    nowhere = {"galleries": [{"collection": "nowhere"}]}
    api.refused(404, "PUT", path, json=nowhere)
    no_group = {"galleries": [{"collection": "default", "groups": ["none"]}]}
    api.refused(404, "PUT", path, json=no_group)
    twice = {"galleries": [{"collection": "default"}, {"collection": "default"}]}
    api.refused(409, "PUT", path, json=twice)
    api.refused(400, "PUT", "/v1/devices/a%20b/galleries", json={"galleries": []})
    api.refused(403, "PUT", path, "device", json={"galleries": []})


def local(person):
    return {
        "collection": "default",
        "decision": "identified",
        "person": person,
        "similarity": 0.9,
        "seq": 3,
    }


def test_an_event_says_what_the_box_had_decided_and_whether_it_was_right(api, helpers):
    grant(api)
    amy = api.person("Amy", helpers.unit_vector(1))
    (sent,) = api.send(api.probe(helpers.unit_vector(1), local=local(amy)))
    assert sent["event"]["local"] == {
        "decision": "identified",
        "person": {"id": amy, "name": "Amy"},
        "similarity": 0.9,
        "agrees": True,
    }
    bob = api.person("Bob", helpers.unit_vector(2))
    wrong = local(bob)
    probe = api.probe(helpers.unit_vector(1), local=wrong, sequence=2, camera="back")
    (sent,) = api.send(probe)
    event = api.ok("GET", f"/v1/events/{sent['event']['id']}")
    assert (event["person"]["name"], event["local"]["person"]["name"]) == ("Amy", "Bob")
    assert event["local"]["agrees"] is False
    (view,) = api.ok("GET", "/v1/followers")["items"]
    assert (view["decided"], view["disagreed"]) == (2, 1)


def test_whom_only_the_box_had_named_is_erased_from_the_event_too(api, helpers):
    grant(api)
    bob = api.person("Bob", helpers.unit_vector(2))
    probe = api.probe(helpers.unit_vector(5), local=local(bob))
    (sent,) = api.send(probe)
    assert sent["event"]["decision"] == "unknown"
    assert sent["event"]["local"]["person"]["name"] == "Bob"
    api.ok("DELETE", f"{STAFF}/{bob}")
    event = api.ok("GET", f"/v1/events/{sent['event']['id']}")
    assert event["local"]["person"] is None
    assert "Bob" not in json.dumps(event)


def test_an_event_without_a_local_decision_says_so(api, helpers):
    (sent,) = api.send(api.probe(helpers.unit_vector(5)))
    assert sent["event"]["local"] is None


def waiting(api, **query):
    """A request that waits for a change, in its own thread."""
    query = {"collection": "default", "device": "door-1", "wait": 30, **query}
    headers = {"Authorization": f"Bearer {api.key('device')}"}
    client = api.client.application.test_client()
    return ThreadPoolExecutor(1).submit(
        lambda: client.get("/v1/changes", query_string=query, headers=headers).get_json()
    )


def test_who_waits_is_answered_as_soon_as_something_happens(api, helpers):
    grant(api)
    head, _ = snapshot(api)
    call = waiting(api, since=head["seq"])
    api.person("Amy", helpers.unit_vector(1), id="amy")
    changes = FeedChanges.model_validate(call.result(20))  # it would have waited for 30 s
    later = follow(api, since=changes.seq)
    assert [one.id for one in (*changes.persons, *later.persons)][:1] == ["amy"]


def test_who_waits_learns_that_the_gallery_was_taken_away(api):
    grant(api)
    head, _ = snapshot(api)
    call = waiting(api, since=head["seq"])
    assert follow(api, since=head["seq"]).seq == head["seq"]
    api.ok("PUT", "/v1/devices/door-1/galleries", json={"galleries": []})
    assert call.result(20)["code"] == "forbidden"


def test_who_waits_is_told_nothing_once_the_key_has_been_revoked(api):
    grant(api)
    head, _ = snapshot(api)
    call = waiting(api, since=head["seq"])
    assert follow(api, since=head["seq"]).seq == head["seq"]
    api.services.keys.revoke(api.key("device").split("_")[1])
    api.person("Amy")
    assert call.result(20)["code"] == "unauthenticated"


def test_what_was_read_while_the_gallery_was_taken_away_is_not_told(api, helpers, monkeypatch):
    grant(api)
    head, _ = snapshot(api)
    api.person("Amy", helpers.unit_vector(1), id="amy")
    read = api.services.feed.changes

    def taken_away_meanwhile(followed, query):
        changes = read(followed, query)
        api.ok("PUT", "/v1/devices/door-1/galleries", json={"galleries": []})
        return changes

    monkeypatch.setattr(api.services.feed, "changes", taken_away_meanwhile)
    query = {"collection": "default", "device": "door-1", "since": head["seq"]}
    assert api.call("GET", "/v1/changes", "device", query_string=query).status_code == 403


def test_templates_pack_and_unpack():
    rows = np.random.default_rng(1).standard_normal((3, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f2")
    packed = FeedTemplates.pack([(n, 9, row.tobytes()) for n, row in enumerate(rows, start=1)])
    assert np.array_equal(packed.rows(8), rows)
    with pytest.raises(ValueError, match="are not 3 templates"):
        packed.rows(7)


def test_a_snapshot_ends_without_its_end_when_it_may_no_longer_be_followed(api, helpers):
    api.person("Amy", helpers.unit_vector(1))
    args = {"collection": "default", "device": "door-1"}

    def revoke():
        api.services.keys.revoke(api.key("device").split("_")[1])

    def take_away():
        api.ok("PUT", "/v1/devices/door-1/galleries", json={"galleries": []})

    for end in (take_away, revoke):
        grant(api)
        response = api.call("GET", "/v1/snapshot", "device", query_string=args, buffered=False)
        lines = iter(response.response)
        assert json.loads(next(lines))["kind"] == "head"
        end()
        assert list(lines) == []
        response.close()
