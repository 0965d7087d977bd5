"""Best shot: chooses which pictures of a face become templates, before anything is embedded."""

from dataclasses import dataclass
from typing import Final

from edge_agent.config.settings import ShotSettings
from edge_agent.vision.fusion import FusedShots
from edge_agent.vision.identity_guard import IdentityGuard
from edge_agent.vision.shot import Shot
from shared.fusion import SAME_PERSON
from shared.wire.quality import Quality
from shared.wire.template import Template

_EAGER_S: Final = 0.5  # a new face is assessed in every frame for so long ...
_ASSESS_SOON_S: Final = 0.1  # ... then no more often than this until it has a probe ...
_ASSESS_AGAIN_S: Final = 0.2  # ... and than this afterwards
_RETRY_AFTER_S: Final = 0.4  # after a shot did not pass the quality gate
_NEARLY_AS_GOOD: Final = 0.85  # of the published score: worth adding to the fused template


@dataclass(frozen=True, slots=True)
class ShotTuning:
    """How shots are chosen, beyond `ShotSettings`. Scores are `Quality.score`."""

    good_enough: float = 0.75  # a first shot with this score becomes a probe without waiting
    again_after_s: float = 1.0  # from one probe of a track to the next
    final_margin: float = 0.04  # at the track's end, a shot better by this becomes a probe
    max_embeddings: int = 8  # of one track; beyond, only checks of its identity


class BestShot:
    """Chooses the shots of one track that become probes. It keeps one shot at most.

    Not thread-safe. All times are stream time.
    """

    def __init__(
        self, settings: ShotSettings, tuning: ShotTuning, guard: IdentityGuard, began_s: float
    ) -> None:
        self.probes = 0
        self._settings = settings
        self._tuning = tuning
        self._guard = guard
        self._began_s = began_s
        self._best: Shot | None = None  # since the last one that was judged
        self._since_s = 0.0  # when the first of the shots came that compete with it
        self._not_before_s = float("-inf")  # no shot is judged before
        self._assessed_s = float("-inf")
        self._published_score = 0.0
        self._published_s = 0.0
        self._fused = FusedShots()  # that the newest probe's template is made of

    def is_settled(self, now_s: float) -> bool:
        """Whether the track is not new, not doubted, and does not wait for its first probe."""
        return not self._guard.doubted and (self.probes > 0 or not self._is_new(now_s))

    def choose_for_assessment(self, now_s: float) -> bool:
        """Whether the face in this frame could become a best shot and is to be assessed."""
        if now_s < self._not_before_s:
            return False
        doubted = self._guard.doubted
        spent = (
            self.probes >= self._settings.max_probes
            or self._guard.embeddings >= self._tuning.max_embeddings
        )
        if spent and not doubted:
            return False
        if self.probes or not self._is_new(now_s):
            every_s = _ASSESS_AGAIN_S if self.probes and not doubted else _ASSESS_SOON_S
            # All faces are assessed in the same frames: one batch costs less than several.
            if now_s // every_s == self._assessed_s // every_s:
                return False
        self._assessed_s = now_s
        return True

    def beats(self, quality: Quality, now_s: float) -> bool:
        """Whether a shot of this quality, which passed the gate, would be the best so far."""
        if self._guard.needs_later_template(now_s):
            return False
        score = quality.score
        if self._best is not None and score <= self._best.quality.score:
            return False
        if self._guard.doubted or not self.probes or self._is_better(score):
            return True
        return self._adds(score) and self._guard.has_new_appearance()

    def offer(self, shot: Shot) -> None:
        """Keeps a shot that `beats` the best so far."""
        if self._best is None:
            self._since_s = shot.time_s
        self._best = shot

    def drop(self) -> None:
        """Forgets the waiting shot, which may show another person."""
        self._best = None

    def take_due(self, now_s: float) -> Shot | None:
        """Removes the waiting shot where it is to be judged now."""
        return self._take() if self._is_due(now_s) else None

    def take_last(self) -> Shot | None:
        """Removes the waiting shot of a track that ended, where it is worth a probe."""
        if self._best is None:
            return None
        score = self._best.quality.score
        worth = self._guard.doubted or not self.probes or self._is_better(score)
        return self._take() if worth or self._adds(score) else None

    def retry_later(self, refused: Shot) -> None:
        """Waits before the next shot is judged, because this one did not pass the gate."""
        self._not_before_s = refused.time_s + _RETRY_AFTER_S

    def is_worth_a_probe(self, shot: Shot, template: Template) -> bool:
        """Whether a shot of the track's person becomes a probe, or was only an identity check.

        Where its template does not agree with the fused ones, it must be clearly better.
        """
        score = shot.quality.score
        if not self.probes or self._is_better(score):
            return True
        return self._adds(score) and self._fused.agrees(template, SAME_PERSON)

    def publish(self, shot: Shot, template: Template) -> tuple[Template, int]:
        """Notes that a shot becomes a probe. Returns the template to send, and its shots' number.

        The template is fused with the best ones before it, or replaces those that it does not
        agree with.
        """
        self.probes += 1
        self._fused.add(shot.quality.score, template, self._settings.fuse, SAME_PERSON)
        self._published_score, self._published_s = self._fused.best_score, shot.time_s
        self._guard.add_probe(shot, template)
        return self._fused.template, len(self._fused)

    def _is_new(self, now_s: float) -> bool:
        return now_s - self._began_s < _EAGER_S

    def _take(self) -> Shot | None:
        shot, self._best = self._best, None
        return shot

    def _is_due(self, now_s: float) -> bool:
        best = self._best
        if best is None or now_s < self._not_before_s:
            return False
        score = best.quality.score
        waited = now_s - self._since_s >= self._settings.first_wait_s
        if not self.probes:
            return waited or score >= self._tuning.good_enough
        if self._guard.doubted:  # a fingerprint may still settle it, without a template
            return waited and self._guard.is_check_due(now_s)
        better = score >= self._published_score + self._settings.margin or self._adds(score)
        return better and now_s - self._published_s >= self._tuning.again_after_s

    def _is_better(self, score: float) -> bool:
        """Whether a shot would be a better probe than the published ones."""
        return (
            self.probes < self._settings.max_probes
            and score >= self._published_score + self._tuning.final_margin
        )

    def _adds(self, score: float) -> bool:
        """Whether a shot that is not better would still improve the fused template."""
        return (
            0 < len(self._fused) < self._settings.fuse
            and self.probes < self._settings.max_probes
            and score >= self._published_score * _NEARLY_AS_GOOD
        )
