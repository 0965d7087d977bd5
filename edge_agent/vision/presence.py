"""Presence: who is in view now, said when it changes, and entered in the ledger at the end."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from edge_agent.vision.best_shot import Story
from edge_agent.vision.recognition_ledger import COVERED, NO_LOOK, TrackLedger
from edge_agent.vision.track_events import TrackChange, TrackSink
from edge_agent.vision.tracker import Track

log = logging.getLogger(__name__)


class Presence:
    """The confirmed faces before one camera. Written by its thread; `in_view` is for any.

    Moments are reckoned back from the newest frame's by the stream's own time, so that a clock
    that is set while somebody is in view makes no stay that is negative or a year long.
    """

    def __init__(self, tracks: TrackSink | None, ledger: TrackLedger | None) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self.camera = ""  # the newest frame's
        self._present: dict[str, float] = {}  # track id: since when, stream time
        self._now: tuple[datetime, float] | None = None  # of the newest frame, and its stream time

    @property
    def in_view(self) -> int:
        return len(self._present)

    def at(self, camera: str, moment: datetime, time_s: float) -> None:
        """The newest frame's camera, time of day and stream time."""
        self.camera = camera
        self._now = moment, time_s

    def came(self, tracks: Sequence[Track]) -> int:
        """Says which of the confirmed `tracks` are new; how many they are."""
        fresh = [one for one in tracks if one.confirmed and one.track_id not in self._present]
        for track in fresh:
            self.begin(track.track_id, track.began_s)
        return len(fresh)

    def begin(self, track_id: str, began_s: float) -> None:
        self._present[track_id] = began_s
        log.debug("Camera %s: a face comes into view, track %s", self.camera, track_id)
        began_at = self._moment(began_s)
        self._say(
            TrackChange(self.camera, track_id, "began", began_at, began_at, len(self._present))
        )

    def end(self, story: Story) -> None:
        """The face of `story` has left, or turned out to be another's."""
        began_s = self._present.pop(story.track_id, None)
        if began_s is None:
            return  # never confirmed, or ended before
        left_at = self._moment(story.seen_s)
        if self._ledger is not None:
            self._ledger.enter(self.camera, left_at, _outcome(story))
        self._say(
            TrackChange(
                camera=self.camera,
                track_id=story.track_id,
                state="ended",
                at=left_at,
                began_at=self._moment(began_s),
                in_view=len(self._present),
                probes=story.probes,
                reasons=() if story.probes else tuple(story.reasons[:32]),
            )
        )

    def _moment(self, time_s: float) -> datetime:
        if self._now is None:
            raise ValueError("no frame has been seen, so nothing can have changed")
        moment, now_s = self._now
        return moment - timedelta(seconds=max(0.0, now_s - time_s))

    def _say(self, change: TrackChange) -> None:
        if self._tracks is not None:
            self._tracks.put([change])


def _outcome(story: Story) -> str | None:
    """What the ledger says of a track: None for one with a probe of a face that was free."""
    if not story.probes:
        return main_reason(story)
    return None if story.free_probes else COVERED


def main_reason(story: Story) -> str:
    """Why this track gave no probe: a quality factor, or `no_look`."""
    return story.reasons[0] if story.reasons else NO_LOOK
