"""Segments are a cache: a start uses valid segments, logs invalid ones, and loses no template."""

import contextlib
import logging

import numpy as np
import pytest

from match_server.services.galleries import follower
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named
from tests.support.waiting import wait_until


@pytest.fixture
def index(api, tmp_path):
    """Starts galleries over the same folder and closes the former ones, as a restart does."""
    started = []

    def start():
        for galleries in started:
            galleries.close()
        started[:] = [
            Galleries(api.services.database, api.services.vault, folder=tmp_path / "galleries")
        ]
        return started[0]

    yield start
    for galleries in started:
        galleries.close()


@pytest.fixture
def log_messages(caplog):
    """The follower's messages since the last call."""
    caplog.set_level(logging.INFO, logger="match_server.services.galleries.follower")

    def messages():
        messages_and_reasons = [
            (record.message, getattr(record, "why", ""))
            for record in caplog.records
            if record.name == "match_server.services.galleries.follower"
        ]
        caplog.clear()
        return messages_and_reasons

    return messages


def _gallery(index, services):
    with services.database.read() as session:
        return index.caught_up(collection_named(session, "default")).gallery


def _similarities(gallery, vector):
    (candidates,) = gallery.search(vector[np.newaxis], 10)
    return dict(zip(candidates.ids.tolist(), candidates.similarities.tolist(), strict=True))


def test_a_start_maps_the_segments_and_replays_what_came_after(api, helpers, index, log_messages):
    api.person("Ann", helpers.unit_vector(1))
    _gallery(index(), api.services)
    assert log_messages() == [("Built a gallery from the database", "there were no segments")]
    bob = api.person("Bob", helpers.unit_vector(2))
    api.person("Cid", helpers.unit_vector(3))
    api.ok("DELETE", f"/v1/collections/default/persons/{bob}")
    gallery = _gallery(index(), api.services)
    assert [message for message, _ in log_messages()] == ["Mapped a gallery"]
    assert len(gallery) == 2
    assert _similarities(gallery, helpers.unit_vector(3))[3] == pytest.approx(1, abs=1e-3)
    assert 2 not in _similarities(gallery, helpers.unit_vector(2))


def test_what_a_crash_left_unsealed_is_replayed(api, helpers, tmp_path, log_messages):
    folder = tmp_path / "galleries"
    _gallery(Galleries(api.services.database, api.services.vault, folder=folder), api.services)
    crashed = Galleries(api.services.database, api.services.vault, folder=folder)  # never closed
    api.person("Ann", helpers.unit_vector(1))
    assert len(_gallery(crashed, api.services)) == 1
    after = Galleries(api.services.database, api.services.vault, folder=folder)
    assert len(_gallery(after, api.services)) == 1
    after.close()


def _damage_manifest(folder):
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def _damage_segment(folder):
    (segment,) = [path for path in folder.iterdir() if path.suffix not in (".json", "")]
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])


@pytest.mark.parametrize("damage", [_damage_manifest, _damage_segment])
def test_damaged_segments_are_named_and_written_anew(
    api, helpers, index, log_messages, tmp_path, damage
):
    api.person("Ann", helpers.unit_vector(1))
    _gallery(index(), api.services)
    index()  # closes the first, which seals
    damage(tmp_path / "galleries" / "1")
    log_messages()
    gallery = _gallery(index(), api.services)
    ((message, why),) = [each for each in log_messages() if each[0] != "Mapped a gallery"]
    assert message == "Built a gallery from the database"
    assert why != "there were no segments"
    assert _similarities(gallery, helpers.unit_vector(1)) == {1: pytest.approx(1, abs=1e-3)}


def test_segments_ahead_of_the_database_are_not_trusted(
    api, helpers, index, log_messages, tmp_path
):
    api.person("Ann", helpers.unit_vector(1))
    gallery = _gallery(index(), api.services)
    ahead = gallery.watermark + 1000
    gallery.apply(gallery.watermark, ahead, remove=np.array([1], dtype=np.uint64))
    gallery.seal()
    log_messages()
    gallery = _gallery(index(), api.services)
    assert "ahead of the database" in dict(log_messages())["Built a gallery from the database"]
    assert len(gallery) == 1


def _contents(folder):
    """The contents of the files in the folder; a file may be replaced in the meantime."""
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            yield path.read_bytes()


def test_an_erased_template_is_soon_gone_from_the_files(api, helpers, index, tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "_COMPACT_AFTER_S", 0.0)
    vector = helpers.unit_vector(1)
    ann = api.person("Ann", vector)
    api.person("Bob", helpers.unit_vector(2))
    running = index()
    gallery = _gallery(running, api.services)
    row = vector.astype("<f2").tobytes()

    def stored():
        return any(row in content for content in _contents(tmp_path / "galleries"))

    assert stored()
    api.ok("DELETE", f"/v1/collections/default/persons/{ann}")
    _gallery(running, api.services)
    wait_until(lambda: not stored(), "the template leaves the disk")
    assert len(gallery) == 1


def test_the_files_of_an_erased_collection_go_with_it(api, helpers, index, tmp_path):
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    running = index()
    running.warm()
    assert (tmp_path / "galleries" / "2").exists()
    api.ok("DELETE", "/v1/collections/staff")
    _gallery(running, api.services)
    assert not (tmp_path / "galleries" / "2").exists()
