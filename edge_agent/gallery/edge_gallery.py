"""One collection on the box: what the store holds, searched in memory, decided by its policy."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.gallery.encrypted_store import State, Store
from edge_agent.gallery.quantised_index import Codes
from shared.clock import Clock
from shared.decision import Decision, as_cosine, decide
from shared.errors import Damaged, KeyMissing, ModelMismatch, Unavailable
from shared.wire.change_feed import FeedChanges, FeedPerson, SnapshotHead, SnapshotPart
from shared.wire.template import Template

log = logging.getLogger(__name__)

_PERSONS: Final = 2  # that a decision looks at: the best, and whether another is as near
_FIRST_ASK: Final = 4 * _PERSONS  # templates, to begin with: a person may have several
_ROUNDING: Final = 1e-6  # similarities are compared as single precision, as the server does
_FEW_LOST: Final = 3  # rows that do not open, or a hundredth of all: with more nothing is decided
_MOST_DEAD: Final = 4096
_TIME_KEPT_S: Final = 600.0
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """What the box made of one probe."""

    collection: str
    decision: Decision
    person: FeedPerson | None  # when identified
    similarity: float | None  # of the best candidate; None: nobody came near the threshold
    seq: int  # of the feed, that the gallery had reached


@dataclass(frozen=True, slots=True)
class _Candidate:
    person: FeedPerson
    similarity: float


class LocalGallery:
    """A follower's copy. One thread follows (the writing calls), any may ask for decisions.

    `keep` is how long the copy is good for without a word from the server; then it is deleted.
    """

    def __init__(
        self, store: Store, collection: str, model_id: str, keep: timedelta, clock: Clock
    ) -> None:
        self.collection = collection
        self._store = store
        self._model_id = model_id
        self._keep = keep
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below against each other
        self._state: State | None = None
        self._codes: Codes | None = None
        self._anchor: tuple[datetime, float] | None = None  # a known time, by monotonic_s
        self._heard_server = False  # so the anchor is the server's time
        self._noted_s = clock.monotonic_s()
        self._damage: str | None = None  # of the store, met while deciding
        self._expiry: datetime | None = None  # nobody expires before; None: not looked yet

    # -- as it is --------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        return self._state

    def __len__(self) -> int:
        codes = self._codes
        return 0 if codes is None else len(codes)

    def now(self) -> datetime:
        """How late it is, never earlier than it is known to have been.

        The server's clock is believed, carried on by the monotonic one. Before the server was
        heard, the box's own, unless that has fallen behind what it has shown before: many boxes
        have no clock that runs while they are off.
        """
        anchor, wall = self._anchor, self._clock.now()
        if anchor is None:
            return wall
        known = anchor[0] + timedelta(seconds=self._clock.monotonic_s() - anchor[1])
        return known if self._heard_server else max(wall, known)

    @property
    def damage(self) -> str | None:
        """What of the store cannot be read: it is to be fetched anew, once the server is heard."""
        if self._damage is not None:
            return self._damage
        lost = self._store.lost
        if not lost:
            return None
        return (
            f"{lost} of its rows cannot be read, so some may be unknown here; everything is "
            "fetched anew as soon as the server is reached"
        )

    def unusable(self) -> str | None:
        """Why no decision is made at the moment; None: one can be."""
        state = self._state
        if self._damage is not None:
            return self._damage
        if self._store.lost > max(_FEW_LOST, len(self) // 100) or (
            self._store.lost and not len(self)
        ):
            return self.damage
        if state is None or self._codes is None or not state.caught_up:
            return "the gallery has not been received yet"
        if state.gallery.model_id != self._model_id:
            return (
                f"the gallery is of the model {state.gallery.model_id!r}, "
                f"this box embeds with {self._model_id!r}"
            )
        if self.now() - state.told_at > self._keep:
            return "the server has not been heard for so long that nobody may be known any more"
        return None

    # -- following -------------------------------------------------------------------------------

    def load(self, state: State | None) -> None:
        """Read everything from the store into memory."""
        codes = None
        if state is not None and state.whole:
            codes = Codes(state.gallery.dimension)
            for numbers, rows in self._store.templates():
                codes.add(numbers, rows)
        with self._lock:
            self._state, self._codes = state, codes
        self._expiry = None
        if state is not None and not self._heard_server:
            self._anchor = state.seen_at, self._clock.monotonic_s()

    def begin(self, head: SnapshotHead) -> None:
        """A snapshot begins: nothing that was held counts any more. Raises ModelMismatch."""
        if head.gallery.model_id != self._model_id:
            self.clear()
            raise ModelMismatch(
                f"the collection {self.collection!r} is of the model {head.gallery.model_id!r}, "
                f"this box embeds with {self._model_id!r}: they are never compared"
            )
        with self._lock:
            self._codes = None
        self._store.begin(head)
        self._heard(head.at)

    def extend(self, part: SnapshotPart) -> None:
        self._store.extend(part)
        self._state = self._store.state()

    def complete(self) -> None:
        self._store.complete()
        self.load(self._store.state())

    def apply(self, changes: FeedChanges) -> None:
        """Make changes: durable first, then searchable; gone here before it is acknowledged."""
        codes = self._codes
        if codes is None:
            raise Damaged("changes came for a gallery that is not loaded")
        applied = self._store.apply(changes)
        codes.remove(applied.removed)
        codes.add(applied.numbers, applied.rows)
        if self._expiry is not None:
            self._expiry = min([self._expiry, *_expiries(changes.persons)])
        self._heard(changes.at)
        if codes.dead > len(codes) // 4 + _MOST_DEAD:
            self.load(self._state)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._state, self._codes = None, None
        self._store.clear()
        self._damage = None

    def close(self) -> None:
        """Let go of the store; what is in it stays."""
        with self._lock:
            self._state, self._codes = None, None
        self._store.close()

    def tidy(self) -> None:
        """What time does: an old copy is deleted, and those who have expired with it."""
        state, now = self._state, self.now()
        if state is None:
            return
        if now - state.told_at > self._keep:
            log.warning(
                "Gallery %s: the server was last heard at %s; everything is forgotten",
                self.collection,
                f"{state.told_at:%Y-%m-%d %H:%M} UTC",
            )
            self.clear()
            return
        if self._clock.monotonic_s() - self._noted_s >= _TIME_KEPT_S:
            self._noted_s = self._clock.monotonic_s()
            self._store.note_time(now)
        if self._expiry is None or self._expiry <= now:
            self._drop_expired(now)

    def _drop_expired(self, now: datetime) -> None:
        expired, self._expiry = [], _NEVER
        for one in self._store.persons():
            if _is_expired(one, now):
                expired.append(one.number)
            else:
                self._expiry = min([self._expiry, *_expiries([one])])
        if expired:
            gone = self._store.drop_persons(expired)
            if self._codes is not None:
                self._codes.remove(gone)

    def _heard(self, at: datetime) -> None:
        self._anchor, self._heard_server = (at, self._clock.monotonic_s()), True
        self._state = self._store.state()

    # -- deciding --------------------------------------------------------------------------------

    def decide(self, template: Template) -> Found | None:
        """Who it is, by this gallery alone; None where it cannot be used (see `unusable`)."""
        with self._lock:
            state, codes = self._state, self._codes
        if state is None or codes is None or self.unusable() is not None:
            return None
        if template.model_id != state.gallery.model_id:
            return None
        policy = state.gallery
        # As it travels, so that the server decides about the same numbers.
        probe = template.vector.astype(np.float16).astype(np.float32)
        try:
            candidates = self._candidates(codes, probe, policy.threshold - policy.margin)
        except (Unavailable, Damaged, KeyMissing) as error:
            log.error("Gallery %s: %s", self.collection, error.message)
            if not isinstance(error, Unavailable) or isinstance(error, KeyMissing):
                self._damage = error.message
            return None
        if self.unusable() is not None:  # so much of it turned out not to open
            return None
        decision = decide(candidates, policy.threshold, policy.margin)
        best = candidates[0] if candidates else None
        return Found(
            collection=self.collection,
            decision=decision,
            person=best.person if best is not None and decision == "identified" else None,
            similarity=None if best is None else as_cosine(best.similarity),
            seq=state.seq,
        )

    def _candidates(
        self, codes: Codes, probe: NDArray[np.float32], floor: float
    ) -> list[_Candidate]:
        """The nearest persons who have not expired, each once, by the best of their templates."""
        ask, now, lost = _FIRST_ASK, self.now(), self._store.lost
        while True:
            hits = codes.search(probe, ask, floor - _ROUNDING, self._store.rows)
            owners = self._store.owners([number for number, _ in hits])
            if self._store.lost > lost:  # they were in the way of others: without them, again
                lost = self._store.lost
                codes.remove(self._store.lost_templates())
                continue
            best: dict[int, _Candidate] = {}
            for number, similarity in hits:
                owner = owners.get(number)
                if owner is not None and not _is_expired(owner, now):
                    as_sent = float(np.float32(similarity))
                    best.setdefault(owner.number, _Candidate(owner, as_sent))
            if len(best) >= _PERSONS or len(hits) < ask:
                return list(best.values())[:_PERSONS]
            ask *= 4


def _expiries(persons: Sequence[FeedPerson]) -> list[datetime]:
    return [one.expires_at for one in persons if one.expires_at is not None]


def _is_expired(person: FeedPerson, now: datetime) -> bool:
    return person.expires_at is not None and person.expires_at <= now
