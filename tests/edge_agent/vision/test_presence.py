"""Track changes: reported once, in time, with durations that do not depend on the clock."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.vision.pipeline import Pipeline
from edge_agent.vision.recognition_ledger import NO_LOOK, Ledger
from edge_agent.vision.track_events import TrackChange, TrackQueue
from shared.clock import SystemClock
from tests.support.fake_faces import FPS, FakeFace, FakeFaces, Scene, Sink, frame_of


class RecordedChanges:
    def __init__(self) -> None:
        self.changes: list[TrackChange] = []

    def put(self, changes: Sequence[TrackChange]) -> None:
        self.changes += changes

    @property
    def counts(self) -> list[tuple[str, int]]:
        return [(change.state, change.in_view) for change in self.changes]


def watch(
    scene: Scene,
    frames: int,
    *,
    ledger: Ledger | None = None,
    clock: Callable[[int, datetime], datetime] = lambda _, moment: moment,
    turned: Callable[[int], bool] = lambda _: False,
) -> RecordedChanges:
    recorded = RecordedChanges()
    pipeline = Pipeline(FakeFaces(scene, turned=turned), Sink(), tracks=recorded, ledger=ledger)
    for index in range(frames):
        frame = frame_of(scene, index)
        pipeline.step(replace(frame, captured_at=clock(index, frame.captured_at)))
    pipeline.finish()
    return recorded


def coming_and_going(index: int) -> list[FakeFace]:
    people = []
    if 10 <= index < 60:
        people.append(FakeFace(1, 150 + index))
    if 30 <= index < 100:
        people.append(FakeFace(2, 500))
    return people


def test_each_face_is_reported_once_when_it_comes_and_leaves() -> None:
    recorded = watch(coming_and_going, 160)
    assert recorded.counts == [("began", 1), ("began", 2), ("ended", 1), ("ended", 0)]
    began, ended = recorded.changes[0], recorded.changes[2]
    assert began.track_id == ended.track_id
    assert ended.probes == 1
    assert ended.reasons == ()
    assert ended.began_at == began.at
    stay = (ended.at - ended.began_at).total_seconds()
    assert stay == pytest.approx(49 / FPS, abs=1.01 / FPS), "the time at which it was last seen"


def test_faces_in_view_leave_when_the_camera_stops() -> None:
    recorded = watch(lambda _: [FakeFace(1, 300)], 20)
    assert recorded.counts == [("began", 1), ("ended", 0)]


def test_a_detection_in_one_frame_is_not_reported() -> None:
    assert watch(lambda index: [FakeFace(1, 300)] * (index == 5), 40).changes == []


def test_another_face_in_one_place_is_reported_as_one_that_left_and_one_that_came() -> None:
    recorded = watch(lambda index: [FakeFace(1 if index < 100 else 2, 300)], 200)
    assert recorded.counts == [("began", 1), ("ended", 0), ("began", 1), ("ended", 0)]
    assert len({change.track_id for change in recorded.changes}) == 2


@pytest.mark.parametrize("leap", [timedelta(days=-1), timedelta(days=365)])
def test_a_clock_that_is_set_makes_no_stay_of_negative_length_or_a_year(
    leap: timedelta,
) -> None:
    recorded = watch(
        lambda index: [FakeFace(1, 300 + index)] * (index < 100),
        140,
        clock=lambda index, moment: moment + leap if index >= 50 else moment,
    )
    assert recorded.counts == [("began", 1), ("ended", 0)], "the track goes on"
    ended = recorded.changes[1]
    assert (ended.at - ended.began_at).total_seconds() == pytest.approx(99 / FPS, abs=0.01)
    assert ended.message("box").at == ended.at


def test_the_reason_for_no_probe_is_entered_and_reported(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")

    def scene(index: int) -> list[FakeFace]:
        people = [FakeFace(1, 150), FakeFace(2, 500, passes=False)] if index < 80 else []
        return people + [FakeFace(3, 320)] * (index in (20, 21))

    recorded = watch(scene, 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.camera, day.tracks, day.with_probe) == ("door", 3, 2)
    assert day.reasons == {"sharpness": 1}
    assert [change.reasons for change in recorded.changes if change.state == "ended"].count(
        ("sharpness",)
    ) == 1
    ledger.close()


def test_reasons_of_judged_shots_count_more_than_those_of_frames(tmp_path: Path) -> None:
    """The face is mostly blurred, but its judged shot was turned away: that is the reason."""
    ledger = Ledger(tmp_path / "ledger.db")
    scene: Scene = lambda index: [FakeFace(1, 300, passes=index % 20 < 6)] * (index < 100)  # noqa: E731
    watch(scene, 140, ledger=ledger, turned=lambda _: True)
    assert ledger.days()[0].reasons == {"yaw": 1}
    ledger.close()


def test_a_track_that_was_never_assessed_has_a_reason_too() -> None:
    assert NO_LOOK == "no_look"


class Ticking(SystemClock):
    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s


def changes(count: int) -> list[TrackChange]:
    change = watch(lambda _: [FakeFace(1, 300)], 10).changes[0]
    return [replace(change, in_view=number) for number in range(count)]


def test_the_queue_is_bounded_drops_the_oldest_and_counts() -> None:
    queue = TrackQueue("box-1")
    queue.put(changes(300))
    taken = queue.take(1000)
    assert [one.in_view for one in taken] == list(range(44, 300))
    assert queue.dropped == 44
    assert queue.take() == []
    assert {one.device for one in taken} == {"box-1"}


def test_old_changes_are_not_sent() -> None:
    clock = Ticking()
    queue = TrackQueue("box-1", clock=clock)
    queue.put(changes(2))
    clock.at_s = 31.0
    queue.put(changes(1))
    assert len(queue.take()) == 1
    assert queue.dropped == 2


def test_the_ledger_counts_a_track_of_a_covered_face(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    watch(lambda index: [FakeFace(1, 300, covered=True)] * (index < 80), 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, day.reasons) == (1, 1, {"covered": 1})
    watch(lambda index: [FakeFace(1, 300)] * (index < 80), 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, day.reasons) == (2, 2, {"covered": 1})
    ledger.close()
