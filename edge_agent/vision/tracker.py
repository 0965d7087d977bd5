"""Tracking: finds the detection that continues each face of the previous frame.

Each track has four independent Kalman filters with constant velocity (centre x and y, width,
height), computed in closed form for all tracks at once. Then detections are assigned to predicted
boxes optimally. Where positions leave a choice, as when people cross, fingerprints decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.config.settings import ShotSettings
from edge_agent.vision.assignment import assign
from edge_agent.vision.fingerprints import (
    NO_FINGERPRINT,
    Fingerprint,
    correlation,
    may_be_same_face,
)
from shared.ids import new_id

Boxes = NDArray[np.float32]  # (n, 4) x1 y1 x2 y2, pixels of the frame
Corners = tuple[float, float, float, float]

# Standard deviations in box heights: of a detector's box from frame to frame, and of a head's
# acceleration (per second squared) in place and in size. A head turns back within half a second.
_MEASURED: Final = np.array([0.05, 0.05, 0.08, 0.08])
_ACCELERATION: Final = np.array([6.0, 6.0, 2.0, 2.0])
# Box heights per second: the deviation of a new face's speed, which is assumed to be 0. A person
# who passes close to a camera moves ten box heights a second, which is three deviations.
_FIRST_SPEED: Final = 3.0
_LONGEST_STEP_S: Final = 1.0
_MOST_GROWTH: Final = 1.4  # of a predicted size over one step, and as much less the other way
_UNSEEN_SPEED_S: Final = 1.0  # the speed of an unseen face decays to zero in about this time
# What a wholly different fingerprint costs, in units of the cost of a position: more than any two
# positions within reach differ by, because a face does not change from one frame to the next.
_FINGERPRINTS: Final = 3.0
_CONFIRM_HITS: Final = 2  # detections before a track counts; a flicker has only one
_REACH: Final = 0.7  # distance of a face from its predicted position, in box sizes, at most
_SIZE_RATIO: Final = 2.0  # of a box between two detections, at most


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One face over time, as of the newest frame."""

    track_id: str  # UUIDv7
    row: int | None  # of the frame's detections; None while the face is not seen
    box: Corners  # x1 y1 x2 y2, pixels: as filtered, or as predicted
    began_s: float  # stream time
    seen_s: float  # stream time of the last detection
    confirmed: bool
    doubtful: bool  # detected again after it was missed, or far from its predicted position
    fingerprint: Fingerprint = field(default_factory=lambda: NO_FINGERPRINT)  # of the newest one


@dataclass(frozen=True, slots=True)
class TrackingStep:
    """The tracks after one frame."""

    tracks: tuple[Track, ...]  # live ones, oldest first
    ended: tuple[Track, ...]  # confirmed ones that this frame ended


class Tracker:
    """The tracks of one camera. Not thread-safe; frames come in the order of their times.

    `stills`: pictures that have nothing to do with each other; one detection is a track.
    """

    def __init__(self, settings: ShotSettings | None = None, *, stills: bool = False) -> None:
        self._keep_missed_s = 0.0 if stills else (settings or ShotSettings()).keep_missed_s
        self._confirm_hits = 1 if stills else _CONFIRM_HITS
        self._tracks: list[Track] = []
        self._hits: list[int] = []
        self._fingerprints: list[Fingerprint] = []  # of each track, while its identity was sure
        self._time_s = 0.0
        self._state = np.zeros((0, 2, 4))  # position and speed of centre x, y, width, height
        self._spread = np.zeros((0, 3, 4))  # variance of position, covariance, variance of speed

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The live tracks, oldest first."""
        return tuple(self._tracks)

    def update(
        self, boxes: Boxes, time_s: float, fingerprints: Sequence[Fingerprint] | None = None
    ) -> TrackingStep:
        """Assigns the boxes (n, 4) of a frame at stream time `time_s` to tracks, old and new.

        `fingerprints` (n,) are those of the faces in them; without any, positions alone decide.
        """
        if fingerprints is None:
            fingerprints = [NO_FINGERPRINT] * len(boxes)
        self._predict(time_s - self._time_s)
        self._time_s = time_s
        measured = _to_centres(boxes)
        pairs, contested = self._match(measured, fingerprints)
        self._correct(pairs, measured)
        self._remember(pairs, fingerprints, contested)
        ended = self._end_missed({track for track, _ in pairs})
        self._begin(measured, {row for _, row in pairs}, fingerprints)
        return TrackingStep(self.tracks, ended)

    def hold(self, time_s: float) -> TrackingStep:
        """Advances to stream time `time_s` in a scene without motion: seen tracks stay seen."""
        self._time_s = time_s
        self._tracks = [
            track if track.row is None else replace(track, seen_s=time_s) for track in self._tracks
        ]
        self._state[:, 1] = 0.0  # without motion, no face moves
        return TrackingStep(self.tracks, self._end_missed(self._seen()))

    def split(self, track_id: str) -> Track | None:
        """Gives a track a new id, because it shows another person; None where it has ended."""
        for index, track in enumerate(self._tracks):
            if track.track_id == track_id:
                fresh = replace(track, track_id=new_id(), began_s=track.seen_s, doubtful=False)
                self._tracks[index] = fresh
                return fresh
        return None

    def end_all(self) -> tuple[Track, ...]:
        """Ends every track (scene cut, end of the film) and returns the confirmed ones."""
        ended = tuple(track for track in self._tracks if track.confirmed)
        self._keep([])
        return ended

    def _predict(self, elapsed_s: float) -> None:
        if not self._tracks:
            return
        dt = min(max(elapsed_s, 0.0), _LONGEST_STEP_S)
        state, spread = self._state, self._spread
        unseen = [track.row is None for track in self._tracks]
        state[unseen, 1] *= np.exp(-dt / _UNSEEN_SPEED_S)
        sizes = state[:, 0, 2:].copy()
        state[:, 0] += dt * state[:, 1]
        least = np.maximum(sizes / _MOST_GROWTH, 1.0)
        state[:, 0, 2:] = state[:, 0, 2:].clip(least, sizes * _MOST_GROWTH)
        noise = (_ACCELERATION * self._heights() * dt) ** 2  # white acceleration over one step
        spread[:, 0] += dt * (2 * spread[:, 1] + dt * spread[:, 2]) + noise * (dt * dt / 4)
        spread[:, 1] += dt * spread[:, 2] + noise * (dt / 2)
        spread[:, 2] += noise

    def _match(
        self, measured: NDArray[np.float64], fingerprints: Sequence[Fingerprint]
    ) -> tuple[list[tuple[int, int]], set[int]]:
        """Pairs of (track, detection) with the least total cost, and the contested tracks.

        A track is contested where two detections are possible for it, or two tracks for one
        detection. The cost is that of DIoU (Zheng et al. 2020): one minus overlap plus the squared
        distance of the centres, here in units of the reach. It also compares boxes that do not
        overlap.
        """
        if not self._tracks or not len(measured):
            return [], set()
        predicted = self._state[:, 0]
        apart = predicted[:, None, :] - measured[None, :, :]  # (tracks, detections, 4)
        size = np.maximum(predicted[:, None, 2:], measured[None, :, 2:])
        # A face that was not seen for a while may be further from its predicted position.
        doubt = np.minimum(3.0 * np.sqrt(self._spread[:, 0, :2]) / predicted[:, 2:], 1.5)
        reach = (_REACH + doubt)[:, None, :] * size
        distance2 = ((apart[:, :, :2] / reach) ** 2).sum(axis=2)
        ratio = np.abs(np.log(predicted[:, None, 2:] / measured[None, :, 2:])).max(axis=2)
        possible = (distance2 <= 1.0) & (ratio <= np.log(_SIZE_RATIO))
        cost = 1.0 - _overlap(predicted, measured) + distance2 + 0.5 * ratio
        choice = possible.sum(axis=1, keepdims=True) > 1
        rival = possible.sum(axis=0, keepdims=True) > 1
        contested = possible & (choice | rival)
        for track, row in np.argwhere(contested).tolist():
            cost[track, row] += _FINGERPRINTS * (
                1.0 - correlation(self._fingerprints[track], fingerprints[row])
            )
        return assign(cost, possible), set(np.flatnonzero(contested.any(axis=1)).tolist())

    def _remember(
        self,
        pairs: Sequence[tuple[int, int]],
        fingerprints: Sequence[Fingerprint],
        contested: set[int],
    ) -> None:
        """Keeps the newest fingerprints, but not one that may be another person's."""
        for track, row in pairs:
            if track not in contested or may_be_same_face(
                self._fingerprints[track], fingerprints[row]
            ):
                self._fingerprints[track] = fingerprints[row]
            self._tracks[track] = replace(self._tracks[track], fingerprint=fingerprints[row])

    def _seen(self) -> set[int]:
        return {index for index, track in enumerate(self._tracks) if track.row is not None}

    def _correct(self, pairs: Sequence[tuple[int, int]], measured: NDArray[np.float64]) -> None:
        if not pairs:
            return
        tracks, rows = (np.array(side) for side in zip(*pairs, strict=True))
        state, spread = self._state[tracks], self._spread[tracks]
        surprise = measured[rows] - state[:, 0]
        noise = (_MEASURED * state[:, 0, 3:4]) ** 2
        gain = spread[:, :2] / (spread[:, :1] + noise[:, None])  # (pairs, place and speed, 4)
        state += gain * surprise[:, None]
        spread[:, 2] -= gain[:, 1] * spread[:, 1]
        spread[:, 1] *= 1.0 - gain[:, 0]
        spread[:, 0] *= 1.0 - gain[:, 0]
        state[:, 0, 2:] = np.maximum(state[:, 0, 2:], 1.0)
        self._state[tracks], self._spread[tracks] = state, spread
        jumped = np.abs(surprise[:, :2]).max(axis=1) > 0.5 * measured[rows, 2:].max(axis=1)
        boxes = _to_corners(state[:, 0]).tolist()
        for (index, row), box, jump in zip(pairs, boxes, jumped.tolist(), strict=True):
            self._continue(index, row, _corners(box), jump)

    def _continue(self, index: int, row: int, box: Corners, jumped: bool) -> None:
        self._hits[index] += 1
        before = self._tracks[index]
        self._tracks[index] = Track(
            track_id=before.track_id,
            row=row,
            box=box,
            began_s=before.began_s,
            seen_s=self._time_s,
            confirmed=before.confirmed or self._hits[index] >= self._confirm_hits,
            doubtful=jumped or before.row is None,
        )

    def _end_missed(self, matched: set[int]) -> tuple[Track, ...]:
        kept: list[int] = []
        ended: list[Track] = []
        for index, track in enumerate(self._tracks):
            if index not in matched:
                if self._time_s - track.seen_s >= self._keep_missed_s or not track.confirmed:
                    if track.confirmed:
                        ended.append(track)
                    continue
                (box,) = _to_corners(self._state[index : index + 1, 0]).tolist()
                # What hides the face cuts its box first: the box must not shrink further.
                self._state[index, 1, 2:] = 0.0
                self._tracks[index] = replace(track, row=None, box=_corners(box))
            kept.append(index)
        if len(kept) < len(self._tracks):
            self._keep(kept)
        return tuple(ended)

    def _keep(self, indices: list[int]) -> None:
        self._tracks = [self._tracks[index] for index in indices]
        self._hits = [self._hits[index] for index in indices]
        self._fingerprints = [self._fingerprints[index] for index in indices]
        self._state, self._spread = self._state[indices], self._spread[indices]

    def _begin(
        self, measured: NDArray[np.float64], taken: set[int], fingerprints: Sequence[Fingerprint]
    ) -> None:
        fresh = [row for row in range(len(measured)) if row not in taken]
        if not fresh:
            return
        boxes = measured[fresh]
        spread = np.zeros((len(fresh), 3, 4))
        spread[:, 0] = (_MEASURED * boxes[:, 3:]) ** 2
        spread[:, 2] = (_FIRST_SPEED * boxes[:, 3:]) ** 2
        self._state = np.concatenate([self._state, np.stack([boxes, np.zeros_like(boxes)], axis=1)])
        self._spread = np.concatenate([self._spread, spread])
        for row, box in zip(fresh, _to_corners(boxes).tolist(), strict=True):
            self._hits.append(1)
            self._fingerprints.append(fingerprints[row])
            self._tracks.append(
                Track(
                    track_id=new_id(),
                    row=row,
                    box=_corners(box),
                    began_s=self._time_s,
                    seen_s=self._time_s,
                    confirmed=self._confirm_hits <= 1,
                    doubtful=False,
                    fingerprint=fingerprints[row],
                )
            )

    def _heights(self) -> NDArray[np.float64]:
        heights: NDArray[np.float64] = self._state[:, 0, 3:4]
        return heights


def _to_centres(boxes: Boxes) -> NDArray[np.float64]:
    """(n, 4) corners to centre x, centre y, width, height; sizes of at least one pixel."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    centres = np.empty_like(corners)
    centres[:, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    centres[:, 2:] = np.maximum(corners[:, 2:] - corners[:, :2], 1.0)
    return centres


def _corners(box: list[float]) -> Corners:
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2


def _to_corners(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    half = centres[:, 2:] / 2
    return np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes given as centres and sizes: (n, 4), (m, 4) → (n, m)."""
    a, b = _to_corners(first)[:, None, :], _to_corners(second)[None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0.0).prod(axis=2)
    union = first[:, None, 2:].prod(axis=2) + second[None, :, 2:].prod(axis=2) - shared
    overlap: NDArray[np.float64] = shared / union
    return overlap
