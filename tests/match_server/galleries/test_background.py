"""Galleries follow the feed in bounded steps, and without being searched."""

import threading

import numpy as np
import pytest

from match_server.folder_id import FolderIds
from match_server.services.galleries import follower
from match_server.services.galleries.background import BackgroundFollower
from match_server.services.galleries.galleries import Galleries
from match_server.services.galleries.processes import ProcessReports
from shared.errors import Unavailable
from tests.support.galleries import gallery_of
from tests.support.waiting import wait_until

_PEOPLE = 30
_AT_ONCE = 4


@pytest.fixture
def galleries(api, tmp_path):
    """Starts galleries over one folder, as several processes of a machine do."""
    started = []

    def start():
        started.append(
            Galleries(api.services.database, api.services.vault, folder=tmp_path / "galleries")
        )
        return started[-1]

    yield start
    for each in started:
        each.close()


def enroll(api, helpers, count):
    person = api.person("Ann")
    return [api.template(person, helpers.unit_vector(seed))["id"] for seed in range(count)]


def test_many_changes_are_applied_in_steps_and_kept_in_segments(
    api, helpers, galleries, monkeypatch
):
    behind = galleries()
    gallery = gallery_of(behind, api.services)
    templates = enroll(api, helpers, _PEOPLE)
    for template in templates[::3]:
        api.ok("DELETE", f"/v1/templates/{template}")
    monkeypatch.setattr(follower, "_STEP", _AT_ONCE)
    monkeypatch.setattr(follower, "_MAX_PRIVATE", 2 * _AT_ONCE)
    apply, private = gallery.apply, []

    def applied(*arguments, **more):
        assert more["ids"].shape[0] <= _AT_ONCE
        assert apply(*arguments, **more)
        views = [view for view in gallery._views if view.segment.name is None]
        private.append(sum(view.live for view in views))
        return True

    monkeypatch.setattr(gallery, "apply", applied)
    assert len(gallery_of(behind, api.services)) == _PEOPLE - len(templates[::3])
    assert len(private) > _PEOPLE / _AT_ONCE
    assert max(private) <= 3 * _AT_ONCE
    assert all(view.segment.name for view in gallery._views if view.live)
    fresh = Galleries(api.services.database, api.services.vault)
    np.testing.assert_array_equal(
        gallery.content()[1], gallery_of(fresh, api.services).content()[1]
    )


def test_one_process_applies_many_changes_for_all(api, helpers, galleries, monkeypatch):
    both = [galleries(), galleries()]
    open_galleries = [gallery_of(each, api.services) for each in both]
    enroll(api, helpers, _PEOPLE)
    monkeypatch.setattr(follower, "_STEP", _AT_ONCE)
    rows, together = [], threading.Barrier(2)
    read = follower.read_templates

    def counted(*arguments):
        result = read(*arguments)
        rows.append(result.numbers.shape[0])
        return result

    def search(each):
        together.wait(10)
        gallery_of(each, api.services)

    monkeypatch.setattr(follower, "read_templates", counted)
    threads = [threading.Thread(target=search, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(gallery) for gallery in open_galleries] == [_PEOPLE, _PEOPLE]
    assert sum(rows) < 1.5 * _PEOPLE  # both: twice as many


def test_changes_are_followed_and_erased_templates_go_without_a_search(
    api, helpers, galleries, clock, monkeypatch, tmp_path
):
    monkeypatch.setattr(follower, "_COMPACT_AFTER_S", 0.01)
    nobody_asks = galleries()

    def segments():
        return {path.name for path in (tmp_path / "galleries").rglob("*.segment")}

    template, *_ = enroll(api, helpers, 3)
    reports = ProcessReports(api.services.database, FolderIds(tmp_path / "galleries"), clock)
    background = BackgroundFollower(api.services.database, nobody_asks, reports)
    background.start("worker")
    try:
        wait_until(lambda: background.loaded, "the galleries are loaded")
        (one,) = nobody_asks._followers.values()
        gallery = one._gallery
        before = segments()
        assert len(gallery) == 3
        assert before
        api.ok("DELETE", f"/v1/templates/{template}")
        wait_until(lambda: len(gallery) == 2, "the erasure is applied")
        wait_until(lambda: before.isdisjoint(segments()), "the segment is written anew")
        assert nobody_asks.lag() == 0
    finally:
        background.stop()


def test_a_process_that_ends_does_not_finish_a_long_catch_up(api, helpers, galleries, monkeypatch):
    behind = galleries()
    gallery = gallery_of(behind, api.services)
    enroll(api, helpers, _PEOPLE)
    monkeypatch.setattr(follower, "_STEP", _AT_ONCE)
    apply = gallery.apply

    def interrupted(*arguments, **more):
        behind.interrupt()
        return apply(*arguments, **more)

    monkeypatch.setattr(gallery, "apply", interrupted)
    with pytest.raises(Unavailable, match="stopping"):
        gallery_of(behind, api.services)
    assert 0 < len(gallery) <= _AT_ONCE


def test_damage_that_one_process_finds_is_mended_for_all(api, helpers, galleries, tmp_path):
    finder, other = galleries(), galleries()
    enroll(api, helpers, 3)
    gallery_of(finder, api.services)
    other.warm()
    other.follow()
    (path,) = (tmp_path / "galleries").rglob("*.segment")
    data = bytearray(path.read_bytes())
    data[-4096] ^= 1
    path.write_bytes(data)
    finder.verify()
    gallery = gallery_of(other, api.services)
    other.follow()
    finder.follow()
    assert not path.exists()
    for each in (gallery, gallery_of(finder, api.services)):
        assert each.damage is None
        assert len(each) == 3
