"""Stage times: right numbers, bounded memory."""

from edge_agent.vision.timing import StageTimes


def test_median_and_95th_percentile_are_of_what_was_added() -> None:
    times = StageTimes()
    for duration in range(1, 102):
        times.add("detect", float(duration))
    summary = times.summary()["detect"]
    assert (summary.median, summary.p95, summary.mean, summary.count) == (51, 96, 51, 101)


def test_the_newest_durations_replace_the_oldest() -> None:
    times = StageTimes()
    for duration in [1000.0] * 4096 + [1.0] * 4096:
        times.add("detect", duration)
    summary = times.summary()["detect"]
    assert (summary.median, summary.p95) == (1, 1)
    assert (summary.mean, summary.count) == (500.5, 8192)


def test_several_pipelines_add_up() -> None:
    first, second = StageTimes(), StageTimes()
    first.add("detect", 1.0)
    second.add("detect", 3.0)
    second.add("embed", 5.0)
    first.absorb(second)
    assert first.summary()["detect"].count == 2
    assert first.summary()["embed"].median == 5


def test_a_stage_that_fails_is_measured_too() -> None:
    times = StageTimes()
    try:
        with times.measure("detect"):
            raise ValueError
    except ValueError:
        pass
    assert times.summary()["detect"].count == 1
