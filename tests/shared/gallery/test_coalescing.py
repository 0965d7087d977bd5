"""Concurrent searches share scans, and each still gets its own answer."""

import threading

import numpy as np
import pytest

from shared.gallery.coalescing import MAX_PROBES, SearchCoalescer
from shared.gallery.scan import Query, Ranked
from tests.support.waiting import wait_until


def query(values: list[float], limit: int = 1) -> Query:
    count = len(values)
    return Query(
        np.array(values, dtype=np.float32)[:, None],
        np.full(count, limit, dtype=np.int64),
        np.full(count, -1.0),
    )


class Scans:
    """A scan that echoes its probes and can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.held = False
        self.fail_on: float | None = None

    def __call__(self, query: Query) -> list[Ranked]:
        self.sizes.append(query.limits.shape[0])
        if self.held:
            self.entered.release()
            assert self.go_on.acquire(timeout=30)
        if self.fail_on is not None and (query.probes == self.fail_on).any():
            raise RuntimeError("the scan failed")
        return [
            (np.array([int(p)], dtype=np.uint64), np.array([float(p)])) for p in query.probes[:, 0]
        ]


def test_one_search_alone_is_scanned_at_once() -> None:
    scans = Scans()
    coalescer = SearchCoalescer(scans)
    answer = coalescer.search(query([3, 4]))
    assert [ids.tolist() for ids, _ in answer] == [[3], [4]]
    assert scans.sizes == [2]
    assert coalescer.scans == 1


def _waiting(coalescer: SearchCoalescer, count: int) -> None:
    wait_until(lambda: len(coalescer._queue) >= count, f"{count} searches wait", poll_s=0.001)


def test_searches_that_come_during_a_scan_share_the_next() -> None:
    scans = Scans()
    scans.held = True
    coalescer = SearchCoalescer(scans)
    answers: dict[int, list[Ranked]] = {}

    def search(value: int) -> None:
        answers[value] = coalescer.search(query([value]))

    threads = [threading.Thread(target=search, args=(value,)) for value in range(9)]
    threads[0].start()
    assert scans.entered.acquire(timeout=30)
    for thread in threads[1:]:
        thread.start()
    _waiting(coalescer, 8)
    for _ in range(2):
        scans.go_on.release()
    for thread in threads:
        thread.join(30)
    assert scans.sizes == [1, 8]
    assert {value: answer[0][0].tolist() for value, answer in answers.items()} == {
        value: [value] for value in range(9)
    }


def test_a_scan_takes_no_more_probes_than_its_bound_and_nobody_is_left_waiting() -> None:
    scans = Scans()
    scans.held = True
    coalescer = SearchCoalescer(scans)
    size = MAX_PROBES // 2 + 1
    threads = [
        threading.Thread(target=coalescer.search, args=(query([0.0] * size),)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert scans.entered.acquire(timeout=30)
    _waiting(coalescer, 3)
    for _ in range(4):
        scans.go_on.release()
    for thread in threads:
        thread.join(30)
    assert scans.sizes == [size] * 4
    assert not any(thread.is_alive() for thread in threads)


def test_a_failed_scan_is_raised_to_all_who_shared_it_and_to_nobody_else() -> None:
    scans = Scans()
    scans.fail_on = 7.0
    coalescer = SearchCoalescer(scans)
    with pytest.raises(RuntimeError, match="the scan failed"):
        coalescer.search(query([7]))
    assert coalescer.search(query([8]))[0][0].tolist() == [8]


def test_a_watcher_that_fails_leaves_nobody_waiting() -> None:
    """It is called after all are woken: the threads of this scan and the one that scans next."""
    scans = Scans()
    scans.held = True
    coalescer = SearchCoalescer(scans)

    def fail(searches: int, seconds: float) -> None:
        raise OSError("the figures cannot be written")

    coalescer.watch = fail
    threads = [threading.Thread(target=coalescer.search, args=(query([n]),)) for n in range(3)]
    threads[0].start()
    assert scans.entered.acquire(timeout=30)
    for thread in threads[1:]:
        thread.start()
    _waiting(coalescer, 2)
    for _ in range(2):
        scans.go_on.release()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    scans.held = False
    assert coalescer.search(query([8]))[0][0].tolist() == [8]
