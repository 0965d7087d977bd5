"""Best shot: which look at a face is worth a template, decided before anything is embedded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

from edge_agent.vision.fingerprints import (
    NO_LOOK,
    Fingerprint,
    aligned_fingerprint,
    is_another_look,
    is_surely_same_aligned,
    is_surely_same_face,
    may_be_same_face,
)
from edge_agent.vision.fusion import FusedShots
from edge_agent.vision.shot import Shot
from edge_agent.vision.tracker import Track
from models.types import BgrImage
from shared.fusion import SAME_PERSON
from shared.wire.quality import Quality
from shared.wire.template import Template

_EAGER_S: Final = 0.5  # a new face is looked at in every frame for so long ...
_LOOK_SOON_S: Final = 0.1  # ... then no more often than this until it has a probe ...
_LOOK_AGAIN_S: Final = 0.2  # ... and than this when it has one
_NEARLY_AS_GOOD: Final = 0.85  # of the published score: worth adding to what is fused
_CHECK_AGAIN_S: Final = 2.0
_SECOND_WITNESS_S: Final = 1.0  # after a covered face seemed another; who walks past is free then
_COVERED: Final = 0.25  # share of the face: beyond, a template may be unlike the same face's
_SAME_STRANGER: Final = 0.5  # cosine of two covered looks that bear one another out
_KNOWN_LOOKS: Final = 4

Verdict = Literal["same", "another", "unsure"]


@dataclass(frozen=True, slots=True)
class ShotRules:
    """When a track's best shot becomes a probe. Scores are `Quality.score`; times stream time."""

    first_wait_s: float = 0.2  # how long the first probe waits for a better shot
    good_enough: float = 0.75  # a shot of this score is not waited with
    margin: float = 0.1  # a later probe's shot is better by so much ...
    again_after_s: float = 1.0  # ... and comes so much later
    final_margin: float = 0.04  # at the track's end, a shot better by so much becomes a probe
    retry_after_s: float = 0.4  # after a shot was refused for its quality
    max_probes: int = 4  # of one track
    max_embeddings: int = 8  # of one track; beyond, only ever rarer checks of who it is
    same_person: float = 0.2  # cosine: below it, two shots of a track are two people
    fuse: int = 3  # a probe's template is the mean of so many best shots of its track; 1: of one
    fuse_from: float = SAME_PERSON  # cosine between two shots from which they are fused


@dataclass(slots=True)
class Story:
    """What is known of one track so far; one thread writes it."""

    track_id: str
    began_s: float  # stream time, as all times here
    best: Shot | None = None  # the best one since the last that was judged
    since_s: float = 0.0  # when the first shot came that competes with `best`
    probes: int = 0
    free_probes: int = 0  # of these, of a face that was not covered
    embeddings: int = 0
    published_score: float = 0.0
    published_s: float = 0.0
    not_before_s: float = float("-inf")  # nothing is judged before
    looked_s: float = float("-inf")
    checked_s: float = float("-inf")
    doubted_s: float | None = None  # since when the track may have gone over to another face
    stranger: Template | None = None  # of a covered shot that was unlike the track's
    known: list[Fingerprint] = field(default_factory=list)  # aligned, of shots that were embedded
    newest: Fingerprint = field(default_factory=lambda: NO_LOOK)  # aligned, before any doubt
    seen_s: float = 0.0
    template: Template | None = None  # of the newest probe
    fused: FusedShots = field(default_factory=FusedShots)  # that the newest probe rests on
    liveness: list[float] = field(default_factory=list)  # of the newest looks at it
    liveness_s: float = float("-inf")  # when liveness was looked at last
    poor_looks: Counter[str] = field(default_factory=Counter)  # by factors that did not pass
    refusals: Counter[str] = field(default_factory=Counter)  # the same, of shots that were judged
    before: Fingerprint | None = None  # the face in the frame before

    @property
    def median_liveness(self) -> float | None:
        """Over the looks: one odd frame, or two, decide nothing."""
        return median(self.liveness) if self.liveness else None

    @property
    def reasons(self) -> list[str]:
        """The factors that stood in the way of a probe, the most frequent first.

        What the closer judgement found, if a shot ever came so far; else what the looks found.
        """
        return [name for name, _ in (self.refusals or self.poor_looks).most_common()]

    def looked_at_liveness(self, score: float, at_s: float) -> None:
        """Enters one look; the newest nine count."""
        self.liveness = [*self.liveness[-8:], score]
        self.liveness_s = at_s


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A shot that is due to be judged, and the story of the track that it belongs to."""

    story: Story
    shot: Shot


class BestShots:
    """The stories of one camera's live tracks; each keeps at most one shot. Not thread-safe."""

    def __init__(self, rules: ShotRules | None = None) -> None:
        self._rules = rules or ShotRules()
        self._stories: dict[str, Story] = {}

    def story(self, track: Track) -> Story:
        """What is known of a live track."""
        return self._stories[track.track_id]

    def are_settled(self, tracks: Sequence[Track], now_s: float) -> bool:
        """Whether there are tracks, and none that is new, doubted or waits for its first probe."""
        return bool(tracks) and all(
            track.confirmed
            and (story := self._stories.get(track.track_id)) is not None
            and story.doubted_s is None
            and (story.probes > 0 or now_s - story.began_s >= _EAGER_S)
            for track in tracks
        )

    def to_look_at(self, tracks: Sequence[Track], now_s: float) -> list[Track]:
        """Those of the tracks seen in this frame whose face could become a best shot."""
        chosen = []
        for track in tracks:
            if track.row is None:
                continue
            story = self._stories.get(track.track_id)
            if story is None:
                story = self._stories[track.track_id] = Story(track.track_id, track.began_s)
            story.seen_s = now_s
            self._watch(story, track)
            if self._is_worth_a_look(story, now_s):
                story.looked_s = now_s
                chosen.append(track)
        return chosen

    def recognize(self, track: Track, chip: BgrImage) -> None:
        """Ends a doubt about a track whose aligned face (112, 112, 3) is surely the one it was.

        That costs no template: those who are covered, turn away or are lost for a moment mostly
        look afterwards as they did before.
        """
        story = self._stories[track.track_id]
        look = aligned_fingerprint(chip)
        if story.doubted_s is None:
            story.newest = look
        elif any(is_surely_same_aligned(one, look) for one in (*story.known, story.newest)):
            story.doubted_s = None
            story.stranger = None
            story.newest = look
            story.best = None  # it may be of a moment in which the track was somebody else's

    def beats(self, track: Track, quality: Quality) -> bool:
        """Whether a shot of this quality would be the track's best so far, and passes the gate."""
        story = self._stories[track.track_id]
        if not quality.passed:
            story.poor_looks.update(quality.reasons)
            return False
        if story.stranger is not None and story.seen_s - story.checked_s < _SECOND_WITNESS_S:
            return False
        score = quality.score
        if story.best is not None and score <= story.best.quality.score:
            return False
        if story.doubted_s is not None or not story.probes or self._tops(story, score):
            return True
        # What looks as before has nearly the same template (cosine 0.95): it would add nothing.
        return self._adds(story, score) and all(
            is_another_look(known, story.newest) for known in story.known
        )

    def offer(self, track: Track, shot: Shot) -> None:
        """Keeps a shot that `beats` the one before."""
        story = self._stories[track.track_id]
        if story.best is None:
            story.since_s = shot.time_s
        story.best = shot

    def due(self, tracks: Sequence[Track], now_s: float) -> list[Candidate]:
        """The shots of live tracks that are to be judged now."""
        stories = (self._stories.get(track.track_id) for track in tracks if track.confirmed)
        return [_take(one) for one in stories if one is not None and self._is_due(one, now_s)]

    def end(self, tracks: Sequence[Track]) -> list[Story]:
        """Takes the stories of tracks that are over, `last_of` may make a probe of them."""
        stories = (self._stories.pop(track.track_id, None) for track in tracks)
        return [story for story in stories if story is not None]

    def last_of(self, stories: Sequence[Story]) -> list[Candidate]:
        """The shots of ended tracks that were waiting for a better one, where worth a probe."""
        return [
            _take(story)
            for story in stories
            if story.best is not None
            and (
                story.doubted_s is not None
                or not story.probes
                or self._tops(story, story.best.quality.score)
                or self._adds(story, story.best.quality.score)
            )
        ]

    def keep_only(self, tracks: Sequence[Track]) -> None:
        """Drops the stories of tracks that ended before they were confirmed."""
        if len(self._stories) > len(tracks):
            live = {track.track_id for track in tracks}
            self._stories = {key: one for key, one in self._stories.items() if key in live}

    def refused(self, candidate: Candidate, quality: Quality) -> None:
        """The shot did not pass the gate after all: wait a little before the next is judged."""
        candidate.story.refusals.update(quality.reasons)
        candidate.story.not_before_s = candidate.shot.time_s + self._rules.retry_after_s

    def compare(self, candidate: Candidate, quality: Quality, template: Template) -> Verdict:
        """Enters an embedding: does it show the person of the track's last probe?

        One look at a face that is mostly free decides. Of a covered one the template tells less,
        so that it takes two of them, some time apart and like each other, to make another person.
        """
        story, shot = candidate.story, candidate.shot
        story.embeddings += 1
        story.checked_s = shot.time_s
        if story.template is None or self._is_alike(story.template, template):
            story.stranger = None
            if story.doubted_s is not None and shot.time_s >= story.doubted_s:
                story.doubted_s = None
            story.known = [aligned_fingerprint(shot.chip), *story.known[: _KNOWN_LOOKS - 1]]
            return "same"
        witness, story.stranger = story.stranger, template
        if not is_covered(quality) or (
            witness is not None and float(witness.vector @ template.vector) >= _SAME_STRANGER
        ):
            return "another"
        story.doubted_s = shot.time_s
        story.newest = NO_LOOK  # it may be the other's already
        return "unsure"

    def _is_alike(self, first: Template, second: Template) -> bool:
        return float(first.vector @ second.vector) >= self._rules.same_person

    def is_worth_a_probe(self, candidate: Candidate, template: Template) -> bool:
        """Whether a shot that agrees with its track is news, or was only a check.

        One that is not surely of the same person adds nothing to what is fused; it is news only
        where it is clearly the better one.
        """
        story, score = candidate.story, candidate.shot.quality.score
        if not story.probes or self._tops(story, score):
            return True
        return self._adds(story, score) and story.fused.agrees(template, self._rules.fuse_from)

    def publish(self, story: Story, shot: Shot, template: Template) -> tuple[Template, int]:
        """Enters that this shot became a probe: the template to send, and how many it is of.

        It is fused with the best of the shots before it, or takes their place where it is not
        surely of the same person.
        """
        rules = self._rules
        story.probes += 1
        story.fused.add(shot.quality.score, template, rules.fuse, rules.fuse_from)
        story.known = story.known or [aligned_fingerprint(shot.chip)]
        story.published_score, story.published_s = story.fused.best_score, shot.time_s
        story.template = template
        return story.fused.template, len(story.fused)

    def become_another(self, story: Story, track_id: str) -> Story:
        """A new story under a new id, for the other person that the track has gone over to."""
        was_live = self._stories.pop(story.track_id, None) is not None
        fresh = Story(track_id, story.checked_s, embeddings=1, liveness=story.liveness[-1:])
        fresh.seen_s = story.seen_s
        if was_live:
            self._stories[track_id] = fresh
        return fresh

    def _watch(self, story: Story, track: Track) -> None:
        """Compares the face with the frame before; a track that may have changed is doubted."""
        before, now = story.before, track.look
        changed = before is not None and not may_be_same_face(before, now)
        # A place that is in doubt is settled by a look that is surely the same, without a template.
        moved = track.doubtful and not (before is not None and is_surely_same_face(before, now))
        story.before = now
        if (changed or moved) and story.doubted_s is None:
            story.doubted_s = story.seen_s
            if story.template is not None:
                story.best = None  # it may show the one before

    def _is_worth_a_look(self, story: Story, now_s: float) -> bool:
        rules = self._rules
        if now_s < story.not_before_s:
            return False
        spent = story.probes >= rules.max_probes or story.embeddings >= rules.max_embeddings
        if spent and story.doubted_s is None:
            return False
        if not story.probes and now_s - story.began_s < _EAGER_S:
            return True
        settled = story.probes and story.doubted_s is None
        every_s = _LOOK_AGAIN_S if settled else _LOOK_SOON_S
        # All faces are looked at in the same frames: one batch costs less than several.
        return now_s // every_s != story.looked_s // every_s

    def _is_due(self, story: Story, now_s: float) -> bool:
        rules, best = self._rules, story.best
        if best is None or now_s < story.not_before_s:
            return False
        score = best.quality.score
        waited = now_s - story.since_s >= rules.first_wait_s
        if not story.probes:
            return waited or score >= rules.good_enough
        if story.doubted_s is not None:  # a look may settle it yet, without a template
            return waited and now_s - story.checked_s >= self._check_after_s(story)
        better = score >= story.published_score + rules.margin or self._adds(story, score)
        return better and now_s - story.published_s >= rules.again_after_s

    def _check_after_s(self, story: Story) -> float:
        """Who it is must be known, but each check beyond the budget waits longer."""
        beyond = max(0, story.embeddings - self._rules.max_embeddings)
        unsure = story.stranger is not None
        return (_SECOND_WITNESS_S if unsure else _CHECK_AGAIN_S) * (1 + beyond)

    def _tops(self, story: Story, score: float) -> bool:
        rules = self._rules
        return (
            story.probes < rules.max_probes and score >= story.published_score + rules.final_margin
        )

    def _adds(self, story: Story, score: float) -> bool:
        """Whether a shot that is no better would still make the fused template a better one."""
        return (
            0 < len(story.fused) < self._rules.fuse
            and story.probes < self._rules.max_probes
            and score >= story.published_score * _NEARLY_AS_GOOD
        )


def is_covered(quality: Quality) -> bool:
    """Whether so much of the face is covered that its template may be unlike its others."""
    return any(one.name == "occlusion_total" and one.value > _COVERED for one in quality.factors)


def _take(story: Story) -> Candidate:
    shot, story.best = story.best, None
    if shot is None:
        raise ValueError("a story without a shot has no candidate")
    return Candidate(story, shot)
