"""Tracking in scenes with a known truth, and assignment compared with all possibilities."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge_agent.config.settings import ShotSettings
from edge_agent.vision.assignment import assign
from edge_agent.vision.fingerprints import Fingerprint
from edge_agent.vision.tracker import Tracker, TrackingStep

FPS = 25.0
Boxes = NDArray[np.float32]


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda rows: st.integers(1, 5).flatmap(
            lambda columns: st.tuples(
                hnp.arrays(np.float64, (rows, columns), elements=st.floats(0, 10)),
                hnp.arrays(np.bool_, (rows, columns)),
            )
        )
    )
)
def test_assignment_is_as_good_as_the_best_of_all_possibilities(
    case: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    cost, possible = case
    rows, columns = cost.shape
    best = (0, 0.0)
    for chosen in itertools.permutations(range(max(rows, columns)), min(rows, columns)):
        pairs = [
            (first, second) if rows <= columns else (second, first)
            for first, second in enumerate(chosen)
        ]
        pairs = [pair for pair in pairs if possible[pair]]
        best = min(best, (-len(pairs), float(sum(cost[pair] for pair in pairs))))
    pairs = assign(cost, possible)
    assert all(possible[pair] for pair in pairs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert -len(pairs) == best[0]
    assert sum(cost[pair] for pair in pairs) == pytest.approx(best[1], abs=1e-6)


def boxes_at(centres: NDArray[np.float64], size: float = 80.0) -> Boxes:
    half = np.array([size / 2, size * 0.6])
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def ids_by_row(step: TrackingStep) -> dict[int, str]:
    return {track.row: track.track_id for track in step.tracks if track.row is not None}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), faces=st.integers(1, 8))
def test_faces_that_walk_keep_their_tracks_though_rows_are_shuffled_and_boxes_shake(
    seed: int, faces: int
) -> None:
    chance = np.random.default_rng(seed)
    # Lanes of 130 pixels; speeds up to four face widths a second, either way.
    start = np.stack([chance.uniform(0, 1200, faces), np.arange(faces) * 130.0], axis=1)
    speed = np.stack([chance.uniform(-320, 320, faces), np.zeros(faces)], axis=1)
    tracker = Tracker()
    truth: dict[int, str] = {}
    for frame in range(50):
        centres = start + speed * (frame / FPS) + chance.normal(0, 2.0, (faces, 2))
        order = chance.permutation(faces)
        step = tracker.update(boxes_at(centres[order]), frame / FPS)
        for row, track_id in ids_by_row(step).items():
            assert truth.setdefault(int(order[row]), track_id) == track_id
        assert len(step.tracks) == faces
    assert len(set(truth.values())) == faces


def test_two_people_who_cross_keep_their_tracks() -> None:
    tracker = Tracker()
    seen: list[tuple[str, str]] = []
    for frame in range(50):
        left = np.array([100.0 + 12 * frame, 200.0])
        right = np.array([700.0 - 12 * frame, 240.0])
        ids = ids_by_row(tracker.update(boxes_at(np.stack([left, right])), frame / FPS))
        seen.append((ids[0], ids[1]))
    assert len(set(seen)) == 1


def test_a_face_that_is_hidden_for_a_moment_is_the_same_track_and_doubted() -> None:
    tracker = Tracker()
    ids: list[str] = []
    for frame in range(40):
        hidden = 20 <= frame < 30
        centres = np.array([[100.0 + 6 * frame, 200.0]])
        step = tracker.update(boxes_at(centres[: 0 if hidden else 1]), frame / FPS)
        (track,) = step.tracks
        assert (track.row is None) == hidden
        if not hidden:
            assert track.doubtful == (frame == 30)
        if hidden:
            centre = (track.box[0] + track.box[2]) / 2
            assert centre == pytest.approx(centres[0, 0], abs=15), "the prediction goes on"
        ids.append(track.track_id)
    assert len(set(ids)) == 1


def test_a_face_that_passes_behind_a_post_keeps_its_track() -> None:
    """The box shrinks before the face is hidden; it does not go on shrinking while hidden."""
    tracker = Tracker()
    ids, unseen = set(), []
    for frame in range(60):
        centre = 700.0 - 8 * frame
        left, right = centre - 60, centre + 60
        post = (380.0, 560.0)
        if left < post[1] and right > post[0]:  # the part beside the post
            left, right = (post[1], right) if right - post[1] > post[0] - left else (left, post[0])
        boxes = np.array([[left, 100, right, 260]], np.float32)
        step = tracker.update(boxes[: int(right - left > 90)], frame / FPS)
        ids |= {track.track_id for track in step.tracks}
        x1, _, x2, _ = step.tracks[0].box
        unseen += [x2 - x1] if step.tracks[0].row is None else []
    assert len(ids) == 1
    assert step.tracks[0].row == 0
    assert len(unseen) > 10
    assert unseen == pytest.approx([unseen[0]] * len(unseen))


def test_a_face_that_is_gone_ends_its_track_once() -> None:
    tracker = Tracker(ShotSettings(keep_missed_s=0.5))
    ended: list[str] = []
    for frame in range(60):
        step = tracker.update(boxes_at(np.array([[100.0, 200.0]])[: int(frame < 10)]), frame / FPS)
        ended += [track.track_id for track in step.ended]
    assert len(ended) == 1
    assert step.tracks == ()


def test_a_single_detection_is_never_confirmed() -> None:
    tracker = Tracker()
    tracker.update(boxes_at(np.array([[100.0, 200.0]])), 0.0)
    step = tracker.update(boxes_at(np.zeros((0, 2))), 0.04)
    assert step.tracks == ()
    assert step.ended == ()


def test_a_face_far_from_the_prediction_is_another_track() -> None:
    tracker = Tracker()
    for frame in range(5):
        before = tracker.update(boxes_at(np.array([[100.0, 200.0]])), frame / FPS)
    after = tracker.update(boxes_at(np.array([[900.0, 200.0]])), 5 / FPS)
    assert before.tracks[0].track_id not in {
        track.track_id for track in after.tracks if track.row is not None
    }


def test_a_box_that_jumps_within_reach_is_doubted() -> None:
    tracker = Tracker()
    for frame in range(10):
        tracker.update(boxes_at(np.array([[100.0, 200.0]])), frame / FPS)
    (track,) = tracker.update(boxes_at(np.array([[155.0, 200.0]])), 10 / FPS).tracks
    assert track.doubtful


def test_a_split_track_goes_on_in_its_place_under_a_new_id() -> None:
    tracker = Tracker()
    for frame in range(5):
        (before,) = tracker.update(boxes_at(np.array([[100.0, 200.0]])), frame / FPS).tracks
    fresh = tracker.split(before.track_id)
    (after,) = tracker.update(boxes_at(np.array([[100.0, 200.0]])), 5 / FPS).tracks
    assert fresh is not None
    assert after.track_id == fresh.track_id != before.track_id
    assert tracker.split(before.track_id) is None


def test_a_still_is_a_track_at_once() -> None:
    step = Tracker(stills=True).update(boxes_at(np.array([[1.0, 1.0]])), 0.0)
    assert step.tracks[0].confirmed


@pytest.mark.parametrize("elapsed_s", [0.0, -3.0, 1e9])
def test_any_difference_in_time_is_accepted(elapsed_s: float) -> None:
    tracker = Tracker()
    time_s = 0.0
    for _ in range(5):
        step = tracker.update(boxes_at(np.array([[100.0, 200.0], [500.0, 200.0]])), time_s)
        time_s += elapsed_s
        assert np.isfinite([track.box for track in step.tracks]).all()
    assert len(step.tracks) == 2


def test_a_box_without_area_is_accepted() -> None:
    tracker = Tracker()
    for frame in range(3):
        step = tracker.update(np.full((1, 4), 7.0, np.float32), frame / FPS)
    assert len(step.tracks) == 1


def look_of(person: int, frame: int) -> Fingerprint:
    """A fingerprint that changes a little from frame to frame."""
    own = np.random.default_rng(person).normal(size=144)
    changed = own + np.random.default_rng((person, frame)).normal(0, 0.4, 144)
    changed -= changed.mean()
    return (changed / np.linalg.norm(changed)).astype(np.float32)


def meeting(frame: int) -> list[tuple[int, float]]:
    """Two people walk towards each other, are hidden where they meet, and turn back."""
    if frame < 20:
        return [(1, 100.0 + 12 * frame), (2, 580.0 - 12 * frame)]
    if frame < 26:
        return []
    return [(1, 328.0 - 12 * (frame - 26)), (2, 352.0 + 12 * (frame - 26))]


def follow(with_looks: bool, seed: int) -> dict[int, set[str]]:
    """The tracks of each of the two people, for any order of the detections."""
    chance = np.random.default_rng(seed)
    tracker, tracks = Tracker(), dict[int, set[str]]()
    for frame in range(45):
        people = meeting(frame)
        order = chance.permutation(len(people))
        shown = [people[row] for row in order]
        centres = np.array([(x, 200.0) for _, x in shown]).reshape(-1, 2)
        boxes = boxes_at(centres + chance.normal(0, 1.5, centres.shape))
        looks = [look_of(person, frame) for person, _ in shown] if with_looks else None
        for row, track_id in ids_by_row(tracker.update(boxes, frame / FPS, looks)).items():
            tracks.setdefault(shown[row][0], set()).add(track_id)
    return tracks


@pytest.mark.parametrize("seed", range(10))
def test_two_people_who_meet_and_turn_back_keep_their_tracks_by_fingerprints(seed: int) -> None:
    first, second = follow(True, seed).values()
    assert len(first) == len(second) == 1
    assert first != second


def test_positions_alone_would_mix_them_up() -> None:
    """In this scene positions alone do not tell the two people apart."""
    mixed = [follow(False, seed) for seed in range(10)]
    assert any(len(tracks[1]) > 1 for tracks in mixed)


def test_without_motion_seen_tracks_stay_and_hidden_ones_end() -> None:
    tracker = Tracker(ShotSettings(keep_missed_s=0.5))
    both = np.array([[100.0, 200.0], [500.0, 200.0]])
    for frame in range(5):
        tracker.update(boxes_at(both), frame / FPS)
    tracker.update(boxes_at(both[:1]), 5 / FPS)  # the second face is hidden
    held = [tracker.hold(6 / FPS + 0.1 * tenth) for tenth in range(30)]
    assert [len(step.ended) for step in held].count(1) == 1
    (left,) = held[-1].tracks
    again = tracker.update(boxes_at(both[:1] + 5), 6 / FPS + 3.0)
    assert [track.track_id for track in again.tracks] == [left.track_id]
    after = tracker.update(boxes_at(both[:0]), 6 / FPS + 3.1)
    assert [track.track_id for track in after.tracks] == [left.track_id], "missed for a moment"


def test_a_face_that_narrows_and_is_then_missed_keeps_its_track_and_its_numbers() -> None:
    tracker = Tracker()
    shrinking = [80.0 - 100.0 * index / FPS for index in range(8)]  # to 52 pixels in 0.3 s
    steps = [
        tracker.update(boxes_at(np.array([[300.0, 200.0]]), size), index / FPS)
        for index, size in enumerate(shrinking)
    ]
    after = tracker.update(boxes_at(np.array([[300.0, 200.0]]), 50.0), 7 / FPS + 0.8)
    assert ids_by_row(after) == ids_by_row(steps[-1])
    assert np.isfinite([track.box for track in after.tracks]).all()


@given(st.lists(st.tuples(st.floats(1, 500), st.floats(0, 3)), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_predicted_sizes_stay_positive_however_sizes_and_times_jump(
    looks: list[tuple[float, float]],
) -> None:
    tracker, time_s = Tracker(), 0.0
    for size, pause_s in looks:
        time_s += pause_s
        step = tracker.update(boxes_at(np.array([[300.0, 200.0]]), size), time_s)
        for x1, y1, x2, y2 in (track.box for track in step.tracks):
            assert x2 - x1 > 0
            assert y2 - y1 > 0


@pytest.mark.parametrize("speed", [3.0, 8.0, 13.0])  # face heights a second
def test_a_fast_person_before_a_slow_camera_is_one_track(speed: float) -> None:
    tracker = Tracker()
    for index in range(7):
        centre = np.array([[80.0 + index / 10 * speed * 80.0 * 1.2, 200.0]])
        step = tracker.update(boxes_at(centre), index / 10)
    assert len(step.tracks) == 1
    assert step.tracks[0].confirmed
