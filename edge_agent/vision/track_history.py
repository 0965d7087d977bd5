"""What is known of each live track: its best shot, its identity, its liveness, why it failed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from edge_agent.config.settings import ShotSettings
from edge_agent.vision.best_shot import BestShot, ShotTuning
from edge_agent.vision.identity_guard import IdentityGuard
from edge_agent.vision.shot import Shot
from edge_agent.vision.tracker import Track
from models.types import BgrImage
from shared.wire.quality import Quality


@dataclass(slots=True)
class LivenessScores:
    """The liveness scores of one track, 0..1."""

    newest: list[float] = field(default_factory=list)  # nine at most
    at_s: float = float("-inf")  # stream time of the last one

    @property
    def median(self) -> float | None:
        """Over the newest scores: one or two odd frames decide nothing."""
        return median(self.newest) if self.newest else None

    def add(self, score: float, at_s: float) -> None:
        """Adds the score of one frame."""
        self.newest = [*self.newest[-8:], score]
        self.at_s = at_s


@dataclass(slots=True, eq=False)
class TrackHistory:
    """What is known of one track. The thread of its camera writes it."""

    track_id: str
    seen_s: float  # stream time
    shots: BestShot
    guard: IdentityGuard
    liveness: LivenessScores = field(default_factory=LivenessScores)
    free_probes: int = 0  # probes of a face that was not covered
    poor_frames: Counter[str] = field(default_factory=Counter)  # by factors that did not pass
    poor_shots: Counter[str] = field(default_factory=Counter)  # the same, of shots that were judged

    @property
    def probes(self) -> int:
        """How many probes the track has given."""
        return self.shots.probes

    @property
    def reasons(self) -> list[str]:
        """The quality factors that prevented a probe, the most frequent first.

        Those of the judged shots count; those of all frames only where no shot was judged.
        """
        return [name for name, _ in (self.poor_shots or self.poor_frames).most_common()]

    def see(self, track: Track, now_s: float) -> None:
        """Compares the face with the previous frame."""
        self.seen_s = now_s
        if self.guard.watch(track, now_s):
            self.shots.drop()

    def recognize(self, chip: BgrImage) -> None:
        """Compares an aligned face (112, 112, 3) with those of this track before."""
        if self.guard.recognize(chip):
            self.shots.drop()

    def refuse(self, shot: Shot, quality: Quality) -> None:
        """Notes that a judged shot did not pass the quality gate."""
        self.poor_shots.update(quality.reasons)
        self.shots.retry_later(shot)


@dataclass(frozen=True, slots=True, eq=False)
class DueShot:
    """A shot that is to be judged, and the history of its track."""

    history: TrackHistory
    shot: Shot


class TrackHistories:
    """The histories of one camera's live tracks. Not thread-safe."""

    def __init__(self, settings: ShotSettings, tuning: ShotTuning) -> None:
        self._settings = settings
        self._tuning = tuning
        self._histories: dict[str, TrackHistory] = {}

    def of(self, track: Track) -> TrackHistory:
        """The history of a live track."""
        return self._histories[track.track_id]

    def are_settled(self, tracks: Sequence[Track], now_s: float) -> bool:
        """Whether there are tracks, and none that needs to be searched soon."""
        return bool(tracks) and all(
            track.confirmed
            and (history := self._histories.get(track.track_id)) is not None
            and history.shots.is_settled(now_s)
            for track in tracks
        )

    def choose_for_assessment(self, tracks: Sequence[Track], now_s: float) -> list[Track]:
        """Of the tracks seen in this frame, those whose face could become a best shot."""
        chosen = []
        for track in tracks:
            if track.row is None:
                continue
            if track.track_id not in self._histories:
                self._histories[track.track_id] = self._begin(track.track_id, track.began_s)
            history = self._histories[track.track_id]
            history.see(track, now_s)
            if history.shots.choose_for_assessment(now_s):
                chosen.append(track)
        return chosen

    def take_due(self, tracks: Sequence[Track], now_s: float) -> list[DueShot]:
        """Removes the shots of confirmed tracks that are to be judged now."""
        due = []
        for track in tracks:
            history = self._histories.get(track.track_id) if track.confirmed else None
            shot = None if history is None else history.shots.take_due(now_s)
            if history is not None and shot is not None:
                due.append(DueShot(history, shot))
        return due

    def end(self, tracks: Sequence[Track]) -> list[TrackHistory]:
        """Removes the histories of tracks that ended."""
        histories = (self._histories.pop(track.track_id, None) for track in tracks)
        return [history for history in histories if history is not None]

    def keep_only(self, tracks: Sequence[Track]) -> None:
        """Drops the histories of tracks that ended before they were confirmed."""
        if len(self._histories) > len(tracks):
            live = {track.track_id for track in tracks}
            self._histories = {
                track_id: history
                for track_id, history in self._histories.items()
                if track_id in live
            }

    def split(self, history: TrackHistory, track_id: str, began_s: float) -> TrackHistory:
        """Begins the history of the person that a track went over to, from an embedded shot."""
        was_live = self._histories.pop(history.track_id, None) is not None
        other = self._begin(track_id, began_s, embeddings=1)
        other.seen_s = history.seen_s
        other.liveness.newest = history.liveness.newest[-1:]
        if was_live:
            self._histories[track_id] = other
        return other

    def _begin(self, track_id: str, began_s: float, *, embeddings: int = 0) -> TrackHistory:
        guard = IdentityGuard(self._tuning.max_embeddings, embeddings=embeddings)
        shots = BestShot(self._settings, self._tuning, guard, began_s)
        return TrackHistory(track_id, began_s, shots, guard)


def take_last(histories: Sequence[TrackHistory]) -> list[DueShot]:
    """Removes the waiting shots of ended tracks, where they are worth a probe."""
    due = []
    for history in histories:
        shot = history.shots.take_last()
        if shot is not None:
            due.append(DueShot(history, shot))
    return due
