"""One collection on the device: searched in memory, decided by the collection's policy."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.gallery.encrypted_store import State, Store
from edge_agent.gallery.quantised_index import QuantisedIndex
from shared.clock import Clock
from shared.decision import Decision, as_cosine, decide
from shared.errors import Damaged, KeyMissing, ModelMismatch, Unavailable
from shared.wire.change_feed import FeedChanges, FeedPerson, Held, SnapshotHead, SnapshotPart
from shared.wire.template import Template
from shared.wire.template_hash import digest_of

log = logging.getLogger(__name__)

_PERSONS: Final = 2  # for a decision: the best, and whether another is as near
_FIRST_LIMIT: Final = 4 * _PERSONS  # templates: a person may have several
_ROUNDING: Final = 1e-6  # similarities are compared as single precision, as the server does
_MAX_LOST: Final = 3  # damaged rows, or a hundredth of all: with more there is no decision
_MAX_REMOVED: Final = 4096
_NOTE_TIME_S: Final = 600.0
_NEAR_EXPIRY: Final = timedelta(seconds=10)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The device's decision on one probe."""

    collection: str
    decision: Decision
    person: FeedPerson | None  # when identified
    similarity: float | None  # of the best candidate; None: no candidate near the threshold
    seq: int  # of the feed, at the decision


@dataclass(frozen=True, slots=True)
class _Candidate:
    person: FeedPerson
    similarity: float


class EdgeGallery:
    """A copy of a collection. One thread writes, any thread may call `decide`.

    After `keep` without a response from the server, the copy is deleted.
    """

    def __init__(
        self, store: Store, collection: str, model_id: str, keep: timedelta, clock: Clock
    ) -> None:
        self.collection = collection
        self._store = store
        self._model_id = model_id
        self._keep = keep
        self._clock = clock
        self._lock = threading.Lock()  # so that state and index fit together
        self._state: State | None = None
        self._index: QuantisedIndex | None = None
        self._anchor: tuple[datetime, float] | None = None  # a known time, by monotonic_s
        self._server_time = False  # whether the anchor is the server's time
        self._noted_s = clock.monotonic_s()
        self._damage: str | None = None  # of the store, noticed by a decision
        self._expiry: datetime | None = None  # of the first person to expire; None: unknown

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        return self._state

    def __len__(self) -> int:
        index = self._index
        return 0 if index is None else len(index)

    def now(self) -> datetime:
        """Returns the time: the server's, continued by the monotonic clock.

        Before the first response of the server it is the device's own clock, but never earlier
        than the last known time: many devices have no clock that runs while they are off.
        """
        anchor, wall = self._anchor, self._clock.now()
        if anchor is None:
            return wall
        known = anchor[0] + timedelta(seconds=self._clock.monotonic_s() - anchor[1])
        return known if self._server_time else max(wall, known)

    @property
    def damage(self) -> str | None:
        """Why the store must be downloaded again from the server; None while it is sound."""
        if self._damage is not None:
            return self._damage
        lost = self._store.lost
        if not lost:
            return None
        return (
            f"{lost} of its rows cannot be read, so some persons may be unknown here; all is "
            "downloaded again as soon as the server is reached"
        )

    def unusable(self) -> str | None:
        """Returns why no decision can be made at the moment; None where one can."""
        state = self._state
        if self._damage is not None:
            return self._damage
        if self._store.lost > max(_MAX_LOST, len(self) // 100) or (
            self._store.lost and not len(self)
        ):
            return self.damage
        if state is None or self._index is None or not state.caught_up:
            return "the gallery has not been received yet"
        if state.gallery.model_id != self._model_id:
            return (
                f"the gallery is of the model {state.gallery.model_id!r}, "
                f"this box embeds with {self._model_id!r}"
            )
        if self.now() - state.server_at > self._keep:
            return "the server has not been heard for so long that the gallery has expired"
        return None

    # -- following -------------------------------------------------------------------------------

    def load(self, state: State | None) -> None:
        """Reads the whole store into memory."""
        index = None
        if state is not None and state.whole:
            index = QuantisedIndex(state.gallery.dimension)
            for numbers, rows in self._store.templates():
                index.add(numbers, rows)
        with self._lock:
            self._state, self._index = state, index
        self._expiry = None
        if state is not None and not self._server_time:
            self._anchor = state.seen_at, self._clock.monotonic_s()

    def begin(self, head: SnapshotHead) -> None:
        """Begins a snapshot, which replaces the content. Raises ModelMismatch."""
        if head.gallery.model_id != self._model_id:
            self.clear()
            raise ModelMismatch(
                f"the collection {self.collection!r} is of the model {head.gallery.model_id!r}, "
                f"this box embeds with {self._model_id!r}: they are never compared"
            )
        with self._lock:
            self._index = None
        self._store.begin(head)
        self._note_response(head.at)

    def extend(self, part: SnapshotPart) -> None:
        self._store.extend(part)
        self._state = self._store.state()

    def complete(self) -> None:
        self._store.complete()
        self.load(self._store.state())

    def apply(self, changes: FeedChanges) -> None:
        """Applies changes first to the store, then to the index; then they may be acknowledged."""
        index = self._index
        if index is None:
            raise Damaged("changes came for a gallery that is not loaded")
        applied = self._store.apply(changes)
        index.remove(applied.removed)
        index.add(applied.numbers, applied.rows)
        if self._expiry is not None:
            self._expiry = min([self._expiry, *_expiries(changes.persons)])
        self._note_response(changes.at)
        if index.removed > len(index) // 4 + _MAX_REMOVED:
            self.load(self._state)

    def clear(self) -> None:
        """Deletes everything."""
        with self._lock:
            self._state, self._index = None, None
        self._store.clear()
        self._damage = None

    def close(self) -> None:
        """Closes the store and keeps its content."""
        with self._lock:
            self._state, self._index = None, None
        self._store.close()

    def tidy(self) -> None:
        """Deletes an old copy, and expired persons."""
        state, now = self._state, self.now()
        if state is None:
            return
        if now - state.server_at > self._keep:
            log.warning(
                "Gallery %s: the server was last heard at %s; deleting the copy",
                self.collection,
                f"{state.server_at:%Y-%m-%d %H:%M} UTC",
            )
            self.clear()
            return
        if self._clock.monotonic_s() - self._noted_s >= _NOTE_TIME_S:
            self._noted_s = self._clock.monotonic_s()
            self._store.note_time(now)
        if self._expiry is None or self._expiry <= now:
            self._drop_expired(now)

    def _drop_expired(self, now: datetime) -> None:
        expired, self._expiry = [], _NEVER
        for person in self._store.persons():
            if _is_expired(person, now):
                expired.append(person.number)
            else:
                self._expiry = min([self._expiry, *_expiries([person])])
        if expired:
            dropped = self._store.drop_persons(expired)
            if self._index is not None:
                self._index.remove(dropped)

    def _note_response(self, at: datetime) -> None:
        self._anchor, self._server_time = (at, self._clock.monotonic_s()), True
        self._state = self._store.state()

    def held(self) -> Held | None:
        """Returns what can be found in this copy, for the server to compare; None: not now.

        A template is found if it is in the index and in the store, with its person. The server and
        this device may notice a moment apart that a person has expired, so near that moment
        nothing is compared.
        """
        state, index, now = self._state, self._index, self.now()
        if state is None or index is None or not state.caught_up or not self._server_time:
            return None
        if self._expiry is None or self._expiry <= now:
            self._drop_expired(now)
        if self._expiry is not None and self._expiry - now < _NEAR_EXPIRY:
            return None
        numbers, hashes = index.content()
        present = np.isin(numbers, self._store.numbers())
        digest = digest_of(numbers[present], hashes[present])
        return Held(templates=int(present.sum()), digest=digest, at=now)

    # -- deciding --------------------------------------------------------------------------------

    def decide(self, template: Template) -> LocalResult | None:
        """Decides by this gallery alone; returns None where it is unusable (see `unusable`)."""
        with self._lock:
            state, index = self._state, self._index
        if state is None or index is None or self.unusable() is not None:
            return None
        if template.model_id != state.gallery.model_id:
            return None
        policy = state.gallery
        # Rounded as on the wire, so that the server decides on the same numbers.
        probe = template.vector.astype(np.float16).astype(np.float32)
        try:
            candidates = self._candidates(index, probe, policy.threshold - policy.margin)
        except (Unavailable, Damaged, KeyMissing) as error:
            log.error("Gallery %s: %s", self.collection, error.message)
            if not isinstance(error, Unavailable) or isinstance(error, KeyMissing):
                self._damage = error.message
            return None
        if self.unusable() is not None:  # the search met too many damaged rows
            return None
        decision = decide(candidates, policy.threshold, policy.margin)
        best = candidates[0] if candidates else None
        return LocalResult(
            collection=self.collection,
            decision=decision,
            person=best.person if best is not None and decision == "identified" else None,
            similarity=None if best is None else as_cosine(best.similarity),
            seq=state.seq,
        )

    def _candidates(
        self, index: QuantisedIndex, probe: NDArray[np.float32], floor: float
    ) -> list[_Candidate]:
        """Returns the nearest persons who have not expired, each with the best template."""
        limit, now, lost = _FIRST_LIMIT, self.now(), self._store.lost
        while True:
            hits = index.search(probe, limit, floor - _ROUNDING, self._store.rows)
            persons = self._store.persons_of([number for number, _ in hits])
            if (
                self._store.lost > lost
            ):  # damaged rows took places of others: search again without them
                lost = self._store.lost
                index.remove(self._store.lost_templates())
                continue
            best: dict[int, _Candidate] = {}
            for number, similarity in hits:
                person = persons.get(number)
                if person is not None and not _is_expired(person, now):
                    rounded = float(np.float32(similarity))
                    best.setdefault(person.number, _Candidate(person, rounded))
            if len(best) >= _PERSONS or len(hits) < limit:
                return list(best.values())[:_PERSONS]
            limit *= 4


def _expiries(persons: Sequence[FeedPerson]) -> list[datetime]:
    return [person.expires_at for person in persons if person.expires_at is not None]


def _is_expired(person: FeedPerson, now: datetime) -> bool:
    return person.expires_at is not None and person.expires_at <= now
