"""Presence: reports who comes into view and leaves, and enters each ended track in the ledger."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from edge_agent.vision.recognition_ledger import COVERED, NO_LOOK, TrackLedger
from edge_agent.vision.track_events import TrackChange, TrackSink
from edge_agent.vision.track_history import TrackHistory
from edge_agent.vision.tracker import Track

log = logging.getLogger(__name__)


class Presence:
    """The confirmed faces before one camera. Its thread writes it; any thread may read `in_view`.

    Times of day are computed back from the newest frame by stream time, so that a clock that is
    set while a person is in view makes no stay of negative length or of a year.
    """

    def __init__(self, tracks: TrackSink | None, ledger: TrackLedger | None) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self.camera = ""  # the newest frame's
        self._present: dict[str, float] = {}  # track id: since when, stream time
        self._now: tuple[datetime, float] | None = None  # of the newest frame, and its stream time

    @property
    def in_view(self) -> int:
        """How many confirmed faces are in view."""
        return len(self._present)

    def set_time(self, camera: str, moment: datetime, time_s: float) -> None:
        """Sets the newest frame's camera, time of day and stream time."""
        self.camera = camera
        self._now = moment, time_s

    def begin_new(self, tracks: Sequence[Track]) -> int:
        """Reports those of the confirmed `tracks` that are new. Returns how many they are."""
        new = [track for track in tracks if track.confirmed and track.track_id not in self._present]
        for track in new:
            self.begin(track.track_id, track.began_s)
        return len(new)

    def begin(self, track_id: str, began_s: float) -> None:
        """Reports that a face came into view."""
        self._present[track_id] = began_s
        log.debug("Camera %s: a face comes into view, track %s", self.camera, track_id)
        began_at = self._moment(began_s)
        self._put(
            TrackChange(self.camera, track_id, "began", began_at, began_at, len(self._present))
        )

    def end(self, history: TrackHistory) -> None:
        """Reports that the face of a track left, or that the track went over to another person."""
        began_s = self._present.pop(history.track_id, None)
        if began_s is None:
            return  # never confirmed, or ended before
        left_at = self._moment(history.seen_s)
        if self._ledger is not None:
            self._ledger.enter(self.camera, left_at, _outcome(history))
        self._put(
            TrackChange(
                camera=self.camera,
                track_id=history.track_id,
                state="ended",
                at=left_at,
                began_at=self._moment(began_s),
                in_view=len(self._present),
                probes=history.probes,
                reasons=() if history.probes else tuple(history.reasons[:32]),
            )
        )

    def _moment(self, time_s: float) -> datetime:
        if self._now is None:
            raise ValueError("no frame has been seen, so nothing can have changed")
        moment, now_s = self._now
        return moment - timedelta(seconds=max(0.0, now_s - time_s))

    def _put(self, change: TrackChange) -> None:
        if self._tracks is not None:
            self._tracks.put([change])


def _outcome(history: TrackHistory) -> str | None:
    """The ledger's entry for a track: None where it gave a probe of a face that was not covered."""
    if not history.probes:
        return main_reason(history)
    return None if history.free_probes else COVERED


def main_reason(history: TrackHistory) -> str:
    """Why this track gave no probe: a quality factor, or `no_look`."""
    return history.reasons[0] if history.reasons else NO_LOOK
