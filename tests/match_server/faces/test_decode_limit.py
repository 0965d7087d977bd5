"""A few pictures are decoded at the same time, for any number of uploads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from match_server import settings as settings_module
from match_server.services.faces.decode_limit import DecodeLimit
from match_server.settings import Settings

PLACES = 2


def test_no_more_are_inside_than_there_are_places():
    limit = DecodeLimit(PLACES)
    met = threading.Barrier(PLACES)  # as many threads as places are inside together
    lock = threading.Lock()
    inside = most = 0

    def visit(_: int) -> None:
        nonlocal inside, most
        with limit:
            with lock:
                inside += 1
                most = max(most, inside)
            met.wait(20)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(4 * PLACES) as visitors:
        list(visitors.map(visit, range(4 * PLACES)))
    assert most == PLACES


def test_a_failure_gives_its_place_back():
    limit = DecodeLimit(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), limit:
            raise ValueError("broken")
    with limit:
        pass


@pytest.mark.parametrize(("workers", "at_once"), [(1, 8), (3, 4), (12, 2)])
def test_workers_share_the_cores_for_pictures_within_bounds(monkeypatch, workers, at_once):
    monkeypatch.setattr(settings_module, "usable_processors", lambda: 12)
    assert Settings(workers=workers).picture_limits.at_once == at_once
