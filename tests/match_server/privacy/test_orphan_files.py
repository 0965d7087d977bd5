"""Files of interrupted writes are deleted; files with a row stay."""

import io
import os
import time

import pytest

from match_server.services.privacy.orphan_files import OrphanFiles


@pytest.fixture
def orphans(api):
    return OrphanFiles(api.services.settings.data_dir, api.services.database)


def _files(api, kind):
    folder = api.services.settings.data_dir / kind
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _age(path, hours=2):
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_photos_and_thumbnails_that_are_named_stay_and_the_others_go(api, helpers, orphans):
    person = api.person("Ann")
    picture = helpers.paint(((0, 0, 200), 80))
    path = f"/v1/collections/default/persons/{person}/images?store=1"
    url = api.ok("POST", path, data={"image": (io.BytesIO(picture), "a.png")})["url"]
    event = api.send(api.probe(helpers.unit_vector(1)))[0]["event"]
    for kind in ("photos", "snapshots"):
        (named,) = _files(api, kind)
        _age(named)
        for name, hours in (("left-behind", 2), ("being-written", 0)):
            stray = named.with_name(name)
            stray.write_bytes(b"x")
            _age(stray, hours)
    assert orphans.run() == 2
    for kind in ("photos", "snapshots"):
        assert "left-behind" not in {path.name for path in _files(api, kind)}
        assert len(_files(api, kind)) == 2
    assert api.call("GET", url).data == picture
    assert api.call("GET", event["snapshot"]).status_code == 200
    assert orphans.run() == 0


def test_a_data_folder_without_files_is_fine(orphans):
    assert orphans.run() == 0
