"""Notices that a track went over to another person, as when two people cross."""

from typing import Final, Literal

from edge_agent.vision.fingerprints import (
    NO_FINGERPRINT,
    Fingerprint,
    aligned_fingerprint,
    is_surely_different_aligned,
    is_surely_same_aligned,
    is_surely_same_face,
    may_be_same_face,
)
from edge_agent.vision.shot import Shot
from edge_agent.vision.tracker import Track
from models.types import BgrImage
from shared.wire.quality import Quality
from shared.wire.template import Template

_CHECK_AGAIN_S: Final = 2.0
_SECOND_TEMPLATE_S: Final = 1.0  # after a covered face seemed another; an arm in front is gone then
_COVERED: Final = 0.25  # share of the face: beyond, a template may be unlike the same face's
_SAME_PERSON: Final = 0.2  # cosine: below it, two shots of a track show two people
_SAME_STRANGER: Final = 0.5  # cosine of two shots of a covered face that confirm each other
_KNOWN_FINGERPRINTS: Final = 4

Comparison = Literal["same", "another", "unsure"]


class IdentityGuard:
    """Checks that one track stays with one person. Not thread-safe.

    A sudden change of the fingerprint, or a position far from the predicted one, begins a doubt.
    A fingerprint or a template that is surely of the same person ends it. All times are stream
    time.
    """

    def __init__(self, max_embeddings: int, *, embeddings: int = 0) -> None:
        self.embeddings = embeddings  # of the track, so far
        self._max_embeddings = max_embeddings
        self._template: Template | None = None  # of the newest probe
        self._doubted_s: float | None = None  # since when the track may show another face
        self._stranger: Template | None = None  # of a covered face that was unlike the track's
        self._checked_s = float("-inf")
        self._known: list[Fingerprint] = []  # aligned, of shots that were embedded
        self._newest: Fingerprint = NO_FINGERPRINT  # aligned, before any doubt
        self._previous: Fingerprint | None = None  # of the face in the previous frame

    @property
    def doubted(self) -> bool:
        """Whether the track may show another person than its last probe."""
        return self._doubted_s is not None

    def watch(self, track: Track, now_s: float) -> bool:
        """Compares the face with the previous frame. Returns whether a doubt about a probe begins.

        A face far from its predicted position is not doubted where it surely looks the same.
        """
        previous, self._previous = self._previous, track.fingerprint
        if self.doubted:
            return False
        if previous is None:
            doubtful = track.doubtful
        elif track.doubtful:
            doubtful = not is_surely_same_face(previous, track.fingerprint)
        else:
            doubtful = not may_be_same_face(previous, track.fingerprint)
        if not doubtful:
            return False
        self._doubted_s = now_s
        return self._template is not None

    def recognize(self, chip: BgrImage) -> bool:
        """Compares an aligned face (112, 112, 3) with known ones. Returns whether it ends a doubt.

        This needs no template: most people who were covered or turned away look the same after.
        """
        fingerprint = aligned_fingerprint(chip)
        if not self.doubted:
            self._newest = fingerprint
            return False
        known = (*self._known, self._newest)
        if not any(is_surely_same_aligned(other, fingerprint) for other in known):
            return False
        self._doubted_s, self._stranger, self._newest = None, None, fingerprint
        return True

    def has_new_appearance(self) -> bool:
        """Whether the newest face differs from all that were embedded.

        One that looks the same has nearly the same template (cosine 0.95), which adds nothing.
        """
        return all(is_surely_different_aligned(known, self._newest) for known in self._known)

    def needs_later_template(self, now_s: float) -> bool:
        """Whether a second template of a covered face would come too soon after the first."""
        return self._stranger is not None and now_s - self._checked_s < _SECOND_TEMPLATE_S

    def is_check_due(self, now_s: float) -> bool:
        """Whether a doubt is to be settled by a template. Checks beyond the budget get rarer."""
        beyond = max(0, self.embeddings - self._max_embeddings)
        pause_s = _CHECK_AGAIN_S if self._stranger is None else _SECOND_TEMPLATE_S
        return now_s - self._checked_s >= pause_s * (1 + beyond)

    def compare(self, shot: Shot, quality: Quality, template: Template) -> Comparison:
        """Compares the template of a shot with that of the track's last probe.

        One template of a face that is mostly free decides. For a covered face, two templates some
        time apart must be unlike the track's and like each other.
        """
        self.embeddings += 1
        self._checked_s = shot.time_s
        if self._template is None or _cosine(self._template, template) >= _SAME_PERSON:
            self._stranger = None
            if self._doubted_s is not None and shot.time_s >= self._doubted_s:
                self._doubted_s = None
            newer = self._known[: _KNOWN_FINGERPRINTS - 1]
            self._known = [aligned_fingerprint(shot.chip), *newer]
            return "same"
        first, self._stranger = self._stranger, template
        confirmed = first is not None and _cosine(first, template) >= _SAME_STRANGER
        if confirmed or not is_covered(quality):
            return "another"
        self._doubted_s = shot.time_s
        self._newest = NO_FINGERPRINT  # it may already be the other person's
        return "unsure"

    def add_probe(self, shot: Shot, template: Template) -> None:
        """Notes that a shot became a probe: later ones are compared with it."""
        self._known = self._known or [aligned_fingerprint(shot.chip)]
        self._template = template


def is_covered(quality: Quality) -> bool:
    """Whether so much of the face is covered that its template may be unlike its others."""
    return any(
        factor.name == "occlusion_total" and factor.value > _COVERED for factor in quality.factors
    )


def _cosine(first: Template, second: Template) -> float:
    return float(first.vector @ second.vector)
