"""Capture from a source: the newest frame, outages, frame rate limits, clocks that are set."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.source import Source, open_source
from edge_agent.capture.stall import StallLimit
from models.types import BgrImage
from shared.clock import SystemClock
from shared.errors import SourceError
from tests.support.films import Actor, write_film

FILM = ReadMode(live=False, reconnect=False)
LIVE = ReadMode(live=True, reconnect=True)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    square = np.full((40, 40, 3), 250, np.uint8)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    way = lambda time_s: (20 + 100 * time_s, 60.0, 40.0)  # noqa: E731
    return write_film(path, [Actor(square, way)], 2.0, (320, 120))


class Scripted:
    """A live source that gives the given numbers as pictures, then fails or ends."""

    live, stills = True, False

    def __init__(self, numbers: Iterator[int], after: Callable[[], None], fails: bool) -> None:
        self._numbers, self._after, self._fails = numbers, after, fails
        self.closed = False

    def grab(self) -> float | None:
        self._number = next(self._numbers, -1)
        if self._number < 0:
            if self._fails:
                raise SourceError("the cable is out")
            return None
        self._after()
        return float(self._number)

    def retrieve(self) -> NDArray[np.uint8]:
        return np.full((4, 4, 3), self._number, np.uint8)

    def close(self) -> None:
        self.closed = True


def test_a_live_source_gives_its_newest_frame_and_counts_the_others() -> None:
    all_read, go_on = threading.Event(), threading.Event()
    numbers = iter(range(10))

    def gate() -> None:
        if numbers.__length_hint__() == 8:
            go_on.wait(10)  # the second frame comes after the first was taken

    source = Scripted(numbers, gate, fails=False)
    source.close = all_read.set  # type: ignore[method-assign]
    capture = Capture("door", lambda: source, LIVE, threading.Event())
    taken = []
    for frame in capture:
        taken.append(int(frame.image[0, 0, 0]))
        go_on.set()
        all_read.wait(10)  # slower than the camera
    assert taken[-1] == 9
    assert len(taken) <= 2
    assert capture.dropped == 10 - len(taken)


def test_an_unplugged_camera_is_logged_once_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes: list[Source | SourceError] = [
        SourceError("no camera /dev/video0"),
        SourceError("no camera /dev/video0"),
        Scripted(iter([1]), lambda: None, fails=True),
        Scripted(iter([2]), lambda: None, fails=False),
    ]

    def open_next() -> Source:
        outcome = outcomes.pop(0)
        if isinstance(outcome, SourceError):
            raise outcome
        return outcome

    stop = threading.Event()
    stop.wait = lambda timeout=None: stop.is_set()  # type: ignore[method-assign]  # no real pauses
    capture = Capture("door", open_next, LIVE, stop, jitter=random.Random(0))
    with caplog.at_level(logging.INFO):
        frames = list(capture)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2]
    assert [frame.index for frame in frames] == [0, 1]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "Camera door: no camera /dev/video0; trying again",
        "Camera door gives pictures again",
        "Camera door comes and goes: the cable is out; not logged again until it has run "
        "for a minute",
    ]


def test_the_pauses_between_attempts_grow_and_are_bounded() -> None:
    pauses: list[float] = []
    stop = threading.Event()

    def wait(timeout: float | None = None) -> bool:
        pauses.append(timeout or 0.0)
        if len(pauses) == 12:
            stop.set()
        return stop.is_set()

    stop.wait = wait  # type: ignore[method-assign]

    def never() -> Source:
        raise SourceError("gone")

    assert list(Capture("door", never, LIVE, stop, jitter=random.Random(0))) == []
    assert all(0.25 <= pause <= 30 for pause in pauses)
    assert pauses[0] <= 0.5
    assert min(pauses[8:]) >= 15


def test_a_capture_ends_when_it_is_stopped_while_the_camera_gives_nothing() -> None:
    stop, opened = threading.Event(), threading.Event()

    class Silent(Scripted):
        def grab(self) -> float | None:
            opened.set()
            stop.wait(30)
            raise SourceError("woken")

    capture = Capture("door", lambda: Silent(iter(()), lambda: None, fails=True), LIVE, stop)
    threading.Thread(target=lambda: (opened.wait(10), stop.set()), daemon=True).start()
    assert list(capture) == []


def test_a_film_in_real_time_is_a_live_source(film: Path) -> None:
    class Clock:
        """Each picture takes a tenth of a second: reading is slower than the film."""

        def __init__(self) -> None:
            self.at_s = 0.0

        def monotonic_s(self) -> float:
            self.at_s += 0.1
            return self.at_s

        def now(self) -> object:
            return None

    stop = threading.Event()
    capture = Capture(
        "door",
        lambda: open_source(str(film)),
        ReadMode(live=False, reconnect=False, realtime=True),
        stop,
        clock=Clock(),  # type: ignore[arg-type]
    )
    frames = list(capture)
    assert len(frames) + capture.dropped == 50
    assert frames[-1].time_s == pytest.approx(49 / 25)


def test_a_frame_rate_limit_chooses_frames_evenly_and_decodes_no_others(film: Path) -> None:
    decoded: list[float] = []

    class Counting:
        live, stills = False, False

        def __init__(self) -> None:
            self._source = open_source(str(film))

        def grab(self) -> float | None:
            return self._source.grab()

        def retrieve(self) -> BgrImage:
            decoded.append(0.0)
            return self._source.retrieve()

        def close(self) -> None:
            self._source.close()

    capture = Capture("door", Counting, FILM, threading.Event(), max_fps=5)
    times = [frame.time_s for frame in capture]
    assert times == pytest.approx([0.2 * n for n in range(10)])
    assert len(decoded) == 10


def test_the_frame_rate_limit_can_change_while_the_film_runs(film: Path) -> None:
    capture = Capture("door", lambda: open_source(str(film)), FILM, threading.Event(), max_fps=5)
    times = []
    for frame in capture:
        times.append(frame.time_s)
        if frame.time_s >= 0.99:
            capture.max_fps = None
    gaps = np.diff(times)
    assert gaps[:5] == pytest.approx(0.2)
    assert gaps[5:] == pytest.approx(1 / 25)


def test_a_camera_that_stops_giving_pictures_is_stalled_then_lost() -> None:
    class Clock(SystemClock):
        at_s = 100.0

        def monotonic_s(self) -> float:
            return Clock.at_s

    hang, stop = threading.Event(), threading.Event()

    class Hanging(Scripted):
        def grab(self) -> float | None:
            if self.closed:
                raise SourceError("closed")
            number = super().grab()
            if number is None:
                hang.wait(10)
            return number

    source = Hanging(iter([1]), lambda: None, fails=False)
    stall = StallLimit()
    for at_s in (0.0, 0.04, 0.08):  # the pace so far: 25 pictures a second
        stall.came(at_s)
    capture = Capture(
        "door", lambda: source, ReadMode(True, False), stop, stall=stall, clock=Clock()
    )
    frames = iter(capture)
    next(frames)
    assert capture.state == "running"
    Clock.at_s += 3
    assert capture.state == "stalled"
    Clock.at_s += 2
    with pytest.raises(SourceError, match=r"has given nothing for 4\.5 s"):
        next(frames)
    assert capture.state == "ended"
    assert capture.error is not None
    hang.set()


def test_a_camera_that_hangs_while_it_is_opened_is_lost_after_a_minute() -> None:
    class Clock(SystemClock):
        at_s = 100.0

        def monotonic_s(self) -> float:
            return Clock.at_s

    hang = threading.Event()

    def hanging() -> Source:
        Clock.at_s += 61
        hang.wait(10)
        raise SourceError("woken")

    capture = Capture("door", hanging, ReadMode(True, False), threading.Event(), clock=Clock())
    with pytest.raises(SourceError, match="no first picture in 60 s"):
        list(capture)
    hang.set()


def test_the_clock_may_be_set_while_stream_time_goes_on() -> None:
    """A day back, a year forward: `captured_at` follows the clock, stream time does not."""
    leaps = [timedelta(0), timedelta(days=-1), timedelta(days=365)]

    class Clock(SystemClock):
        def now(self) -> datetime:
            return datetime(2026, 11, 22, 12, 0, tzinfo=UTC) + leaps.pop(0)

    taken = threading.Semaphore(1)
    source = Scripted(iter([1, 2, 3]), lambda: taken.acquire(timeout=10) and None, fails=False)
    frames = []
    for frame in Capture("door", lambda: source, LIVE, threading.Event(), clock=Clock()):
        frames.append(frame)
        taken.release()
    assert [frame.captured_at.year for frame in frames] == [2026, 2026, 2027]
    assert [frame.time_s for frame in frames] == [1.0, 2.0, 3.0]


class Clock(SystemClock):
    """A clock that only moves when it is set."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def monotonic_s(self) -> float:
        return self.at_s


def without_pauses() -> threading.Event:
    stop = threading.Event()
    stop.wait = lambda timeout=None: stop.is_set()  # type: ignore[method-assign]
    return stop


def test_an_unsteady_camera_is_logged_once_until_it_has_run_for_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, stop = Clock(), without_pauses()

    def open_next() -> Source:
        clock.at_s += 1
        return Scripted(iter([1]), lambda: None, fails=True)

    capture = Capture("door", open_next, LIVE, stop, clock=clock)
    for count, _ in enumerate(capture):
        if count == 5:
            break
    assert [record.getMessage() for record in caplog.records] == [
        "Camera door: the cable is out; trying again",
        "Camera door gives pictures again",
        "Camera door comes and goes: the cable is out; not logged again until it has run "
        "for a minute",
    ]
    assert capture._backoff.pause_s(capture._failures) >= 4, "one picture does not end the failures"
    caplog.clear()

    taken = threading.Semaphore(1)
    capture._open = lambda: Scripted(
        iter(range(50)), lambda: taken.acquire(timeout=10) and None, fails=True
    )
    for count, _ in enumerate(capture):
        clock.at_s += 3
        taken.release()
        if count == 25:
            break
    assert caplog.messages[0] == "Camera door has given pictures for a minute"


def test_an_unknown_error_of_a_library_is_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes: list[Exception | Source] = [
        MemoryError("20000 x 16000"),
        ZeroDivisionError("rtsp://me:secret@cam/1"),
        Scripted(iter([7]), lambda: None, fails=False),
    ]

    def open_next() -> Source:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    frames = list(Capture("door", open_next, LIVE, without_pauses()))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [7]
    assert "failed unexpectedly (MemoryError: 20000 x 16000); trying again" in caplog.messages[0]
    assert "secret" not in caplog.text


def test_a_camera_that_sends_the_same_picture_for_a_minute_is_lost_and_its_tracks_end() -> None:
    clock, stop = Clock(), without_pauses()
    taken = threading.Semaphore(1)

    class Frozen(Scripted):
        def retrieve(self) -> NDArray[np.uint8]:
            return np.full((16, 16, 3), 9, np.uint8)

    source = Frozen(iter(range(1, 100)), lambda: taken.acquire(timeout=10) and None, fails=False)
    capture = Capture("door", lambda: source, ReadMode(True, False), stop, clock=clock)
    frames = []

    def watch() -> None:
        for frame in capture:
            frames.append(frame)
            clock.at_s += 3
            taken.release()

    with pytest.raises(SourceError, match="the very same picture for 60 s"):
        watch()
    assert len(frames) == 20


def test_tracks_in_view_end_once_when_a_camera_is_lost() -> None:
    clock, stop, silences = Clock(), without_pauses(), []
    outcomes = [Scripted(iter([1]), lambda: None, fails=True)]

    def open_next() -> Source:
        clock.at_s += 2
        if clock.at_s > 120:
            stop.set()
        if not outcomes:
            raise SourceError("gone")
        return outcomes.pop()

    capture = Capture("door", open_next, LIVE, stop, clock=clock)
    capture.on_silence = lambda: silences.append(clock.at_s)
    list(capture)
    assert silences == [106.0], "beyond 2.5 s; a shorter outage ends no track"


@pytest.mark.parametrize(
    ("pace_s", "fps", "limit_s"),
    [(0.04, None, 4.5), (2.0, None, 8.0), (5.0, None, 20.0), (30.0, None, 60.0), (30.0, 0.01, 120)],
)
def test_the_stall_limit_follows_the_cameras_own_pace(
    pace_s: float, fps: float | None, limit_s: float
) -> None:
    stall = StallLimit(fps)
    for count in range(4):
        stall.came(count * pace_s)
    assert stall.seconds == pytest.approx(limit_s)
    stall.opened()
    stall.came(1e6)
    assert stall.seconds == pytest.approx(limit_s), "an outage does not change the pace"


def test_a_camera_of_unknown_pace_gets_more_time_after_each_stall() -> None:
    stall = StallLimit()
    limits = []
    for _ in range(5):
        limits.append(stall.seconds)
        stall.stalled()
    assert limits == [10, 20, 40, 60, 60]
