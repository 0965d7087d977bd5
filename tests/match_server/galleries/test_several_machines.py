"""Two machines with their own folders and one database: each file belongs to its folder."""

import io

import pytest

from shared.ids import new_id

pytestmark = pytest.mark.backends("postgresql")

RED = (0, 0, 200)
STAFF = "/v1/collections/default/persons"


def enrolled(api, helpers):
    """Enroll a person with a kept photo and a sighting with a thumbnail; their three ids."""
    person = api.person("Ann")
    data = {"image": (io.BytesIO(helpers.paint((RED, 80))), "a.png"), "store": "1"}
    image = api.ok("POST", f"{STAFF}/{person}/images", data=data)
    ann = helpers.unit_vector(int.from_bytes(bytes(RED), "big"))
    (sent,) = api.send(api.probe(ann))
    assert sent["event"]["person"]["id"] == person
    return person, image["image_id"], sent["event"]["id"]


def files(folder):
    """Photos and thumbnails in a data folder."""
    return [one for kind in ("photos", "snapshots") for one in folder.glob(f"{kind}/*/*")]


@pytest.fixture
def machines(make_api, tmp_path):
    """Two servers over one database, and their data folders."""
    (tmp_path / "there").mkdir()
    here, there = make_api(), make_api(data_dir=tmp_path / "there")
    return here, there, here.services.settings.data_dir, tmp_path / "there"


def test_a_certificate_waits_for_the_machine_that_keeps_the_photo(machines, helpers):
    here, there, folder, _ = machines
    person, _, _ = enrolled(here, helpers)
    assert len(files(folder)) == 2
    erased = there.ok("DELETE", f"{STAFF}/{person}")
    assert erased["pending"] == 2
    assert there.services.erasures.settle() == 1
    certificate = there.ok("GET", f"/v1/erasures/{erased['erasure']}")
    assert certificate["state"] == "pending"
    names = {one["name"] for one in certificate["waiting"] if one["who"] == "files"}
    assert names == {one.name.partition(".")[2] for one in files(folder)}
    assert "whose server deletes them" in certificate["waiting"][0]["what"]
    here.services.files.sweep()
    assert files(folder) == []
    assert there.services.erasures.settle() == 0
    assert there.ok("GET", f"/v1/erasures/{erased['erasure']}")["state"] == "complete"


def test_what_another_machine_keeps_is_said_to_be_there(machines, helpers):
    here, there, _, _ = machines
    _, image, event = enrolled(here, helpers)
    for path in (f"/v1/images/{image}/content", f"/v1/events/{event}/snapshot"):
        assert here.call("GET", path).status_code == 200
        refused = there.refused(503, "GET", path)
        assert refused["code"] == "kept_elsewhere"
        assert refused["details"]["kept_by"] in refused["message"]


def test_thumbnails_whose_time_is_over_go_where_they_lie(machines, helpers):
    here, there, folder, _ = machines
    enrolled(here, helpers)
    here.clock.advance(91 * 86400)
    there.services.retention.run()
    assert len(list(folder.glob("snapshots/*/*"))) == 1
    here.services.files.sweep()
    assert list(folder.glob("snapshots/*/*")) == []
    assert there.services.files.sweep() == 0


def test_a_folder_that_both_machines_share_is_swept_by_either(machines, helpers):
    here, there, folder, other = machines
    enrolled(here, helpers)
    for kind in ("photos", "snapshots"):
        (other / kind).symlink_to(folder / kind)
    person = here.ok("GET", STAFF)["items"][0]["id"]
    assert there.ok("DELETE", f"{STAFF}/{person}")["pending"] == 0
    assert files(folder) == []


def test_a_storage_in_a_folder_of_one_machine_is_not_swept_by_the_other(
    machines, helpers, tmp_path
):
    here, there, _, _ = machines
    storage = tmp_path / "archive"
    here.ok("POST", "/v1/storages", json={"name": "archive", "uri": f"file://{storage}"})
    person = here.person("Ann")
    data = {"image": (io.BytesIO(helpers.paint((RED, 80))), "a.png"), "storage": "archive"}
    here.ok("POST", f"{STAFF}/{person}/images", data=data)
    away = tmp_path / "on the other machine"
    storage.rename(away)  # there, the address is one of an empty folder
    erased = there.ok("DELETE", f"{STAFF}/{person}")
    assert erased["pending"] == 1
    away.rename(storage)
    assert here.services.files.sweep() == 0
    assert list(storage.glob("photos/*/*")) == []


@pytest.mark.parametrize("hours", [1, -1])
def test_clocks_that_are_an_hour_apart_lose_nobody_and_split_no_sighting(
    make_api, helpers, tmp_path, clock, hours
):
    other = type(clock)()
    other.advance(3600 * hours)
    (tmp_path / "there").mkdir()
    here, there = make_api(), make_api(data_dir=tmp_path / "there", clock=other)
    vector = helpers.unit_vector(1)
    person = here.person("Ann")
    seq = here.template(person, vector)["seq"]
    assert there.search(vector, min_seq=seq)["probes"][0]["person"]["id"] == person
    tracks = [new_id()] * 3 + [new_id()]
    for number, track in enumerate(tracks, start=1):
        server = (here, there)[number % 2]
        probe = here.probe(vector, sequence=number, track_id=track)
        (first,), (again,) = server.send(probe), (there if server is here else here).send(probe)
        assert (first["status"], again["status"]) == ("accepted", "duplicate")
        for one in (clock, other):
            one.advance(1)
    for server in (here, there):
        (event,) = server.ok("GET", "/v1/events")["items"]
        assert (event["person"]["id"], event["probes"]) == (person, len(tracks))
    erased = there.ok("DELETE", f"{STAFF}/{person}")
    assert here.names(vector, min_seq=erased["seq"]) == []
    assert here.services.audit.verify().problem is None
