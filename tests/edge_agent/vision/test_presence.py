"""Who comes and goes: said once each, with durations that no clock can spoil, and never late."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.vision.pipeline import Pipeline
from edge_agent.vision.recognition_ledger import NO_LOOK, Ledger
from edge_agent.vision.track_events import TrackChange, TrackQueue
from shared.clock import SystemClock
from tests.support.fake_faces import FPS, FakeFaces, Scene, Sink, Someone, frame_of


class Said:
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
) -> Said:
    said = Said()
    pipeline = Pipeline(FakeFaces(scene, turned=turned), Sink(), tracks=said, ledger=ledger)
    for index in range(frames):
        frame = frame_of(scene, index)
        pipeline.step(replace(frame, captured_at=clock(index, frame.captured_at)))
    pipeline.finish()
    return said


def coming_and_going(index: int) -> list[Someone]:
    people = []
    if 10 <= index < 60:
        people.append(Someone(1, 150 + index))
    if 30 <= index < 100:
        people.append(Someone(2, 500))
    return people


def test_each_who_comes_and_goes_is_said_once_with_how_many_are_there() -> None:
    said = watch(coming_and_going, 160)
    assert said.counts == [("began", 1), ("began", 2), ("ended", 1), ("ended", 0)]
    began, ended = said.changes[0], said.changes[2]
    assert began.track_id == ended.track_id
    assert ended.probes == 1
    assert ended.reasons == ()
    assert ended.began_at == began.at
    stay = (ended.at - ended.began_at).total_seconds()
    assert stay == pytest.approx(49 / FPS, abs=1.01 / FPS), "when last seen, not when given up"


def test_who_is_there_when_the_camera_stops_has_left() -> None:
    said = watch(lambda _: [Someone(1, 300)], 20)
    assert said.counts == [("began", 1), ("ended", 0)]


def test_a_flicker_is_not_said() -> None:
    assert watch(lambda index: [Someone(1, 300)] * (index == 5), 40).changes == []


def test_another_face_in_one_place_is_one_who_leaves_and_one_who_comes() -> None:
    said = watch(lambda index: [Someone(1 if index < 100 else 2, 300)], 200)
    assert said.counts == [("began", 1), ("ended", 0), ("began", 1), ("ended", 0)]
    assert len({change.track_id for change in said.changes}) == 2


@pytest.mark.parametrize("leap", [timedelta(days=-1), timedelta(days=365)])
def test_a_clock_that_leaps_makes_no_stay_that_is_negative_or_a_year_long(
    leap: timedelta,
) -> None:
    said = watch(
        lambda index: [Someone(1, 300 + index)] * (index < 100),
        140,
        clock=lambda index, moment: moment + leap if index >= 50 else moment,
    )
    assert said.counts == [("began", 1), ("ended", 0)], "the track does not notice"
    ended = said.changes[1]
    assert (ended.at - ended.began_at).total_seconds() == pytest.approx(99 / FPS, abs=0.01)
    assert ended.message("box").at == ended.at


def test_why_a_track_gave_no_probe_is_entered_and_said(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")

    def scene(index: int) -> list[Someone]:
        people = [Someone(1, 150), Someone(2, 500, passes=False)] if index < 80 else []
        return people + [Someone(3, 320)] * (index in (20, 21))

    said = watch(scene, 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.camera, day.tracks, day.with_probe) == ("door", 3, 2)
    assert day.reasons == {"sharpness": 1}
    assert [change.reasons for change in said.changes if change.state == "ended"].count(
        ("sharpness",)
    ) == 1
    ledger.close()


def test_what_the_closer_judgement_found_weighs_more_than_poor_looks(tmp_path: Path) -> None:
    """Mostly blurred; but when it was sharp, it was turned away: that is why."""
    ledger = Ledger(tmp_path / "ledger.db")
    scene: Scene = lambda index: [Someone(1, 300, passes=index % 20 < 6)] * (index < 100)  # noqa: E731
    watch(scene, 140, ledger=ledger, turned=lambda _: True)
    assert ledger.days()[0].reasons == {"yaw": 1}
    ledger.close()


def test_a_track_without_any_look_has_a_reason_too() -> None:
    assert NO_LOOK == "no_look"


class Ticking(SystemClock):
    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s


def changes(count: int) -> list[TrackChange]:
    change = watch(lambda _: [Someone(1, 300)], 10).changes[0]
    return [replace(change, in_view=number) for number in range(count)]


def test_the_queue_is_bounded_drops_the_oldest_and_counts() -> None:
    queue = TrackQueue("box-1")
    queue.put(changes(300))
    taken = queue.take(1000)
    assert [one.in_view for one in taken] == list(range(44, 300))
    assert queue.dropped == 44
    assert queue.take() == []
    assert {one.device for one in taken} == {"box-1"}


def test_what_has_waited_is_no_news_any_more() -> None:
    clock = Ticking()
    queue = TrackQueue("box-1", clock=clock)
    queue.put(changes(2))
    clock.at_s = 31.0
    queue.put(changes(1))
    assert len(queue.take()) == 1
    assert queue.dropped == 2


def test_the_ledger_says_that_a_face_was_searched_for_and_covered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    watch(lambda index: [Someone(1, 300, covered=True)] * (index < 80), 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, day.reasons) == (1, 1, {"covered": 1})
    watch(lambda index: [Someone(1, 300)] * (index < 80), 130, ledger=ledger)
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, day.reasons) == (2, 2, {"covered": 1})
    ledger.close()
