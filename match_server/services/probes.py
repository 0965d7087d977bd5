"""Probes: each is searched once, decided once, and kept as part of a sighting.

A probe is answered after its transaction is on the disk. The decision is made inside that
transaction, from persons that it can see: an erasure that was quicker leaves nobody to name.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.schemas.base import Decision
from match_server.schemas.collections import Policy
from match_server.schemas.events import EventView, ProbeResult
from match_server.search_index import SearchIndex
from match_server.services.changes import next_number
from match_server.services.collections import policy_of
from match_server.services.events import event_view
from match_server.services.files import FileStore
from match_server.services.lookup import collection_named
from match_server.services.policy import Candidate, decide
from match_server.services.ranking import TEMPLATES_A_PERSON, rank_persons
from match_server.services.vectors import template_of
from match_server.tables import Collection, Device, Event, EventCandidate, Probe
from shared.clock import Clock
from shared.errors import MalformedInput, ModelMismatch, NotFound, Unavailable
from shared.ids import new_id
from shared.messages import ProbeMessage, StatusMessage

log = logging.getLogger(__name__)

_STRENGTH: dict[str, int] = {"unknown": 0, "ambiguous": 1, "identified": 2}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one probe says."""

    decision: Decision
    candidates: Sequence[Candidate]  # best first
    policy: Policy
    received_at: datetime

    @property
    def similarity(self) -> float | None:
        return self.candidates[0].similarity if self.candidates else None

    @property
    def person_number(self) -> int | None:
        return self.candidates[0].person_number if self.decision == "identified" else None


class Probes:
    """Takes probes in, over whichever transport they came."""

    def __init__(
        self,
        database: Database,
        index: SearchIndex,
        files: FileStore,
        clock: Clock,
        default_collection: str,
    ) -> None:
        self._database = database
        self._index = index
        self._files = files
        self._clock = clock
        self._default_collection = default_collection

    def accept(self, message: ProbeMessage, *, site: str | None = None) -> ProbeResult:
        """Search, decide and store one probe; a second one with its id is a `duplicate`.

        A probe that can never be stored (model, template) is answered `refused`. Raises
        Unavailable when trying later may help.
        """
        with self._database.read() as session:
            known = _known(session, message)
            owner = self._collection_for(session, message.device)
        if known is not None:
            return known
        try:
            template = template_of(message.template, message.model_id, owner)
        except (ModelMismatch, MalformedInput) as error:
            return ProbeResult(
                probe_id=message.probe_id, status="refused", code=error.code, message=error.message
            )
        rows = template.vector[np.newaxis]
        gallery = self._index.caught_up(owner).gallery
        found = gallery.search(rows, _list_length(owner) * TEMPLATES_A_PERSON)
        with (
            self._files.kept("snapshots", message.thumbnail_jpeg) as snapshot,
            self._database.write() as session,
        ):
            known = _known(session, message)  # by another worker, meanwhile
            owner = self._still(session, owner, message.device)
            now = self._clock.now()
            if known is not None:
                result, unused = known, snapshot
            else:
                (ranked,) = rank_persons(
                    session, gallery, rows, _list_length(owner), now, found=found
                )
                verdict = _verdict(owner, ranked, now)
                _note_device(session, message, site, now)
                event, unused = _sighted(session, owner, message, verdict, snapshot)
                session.add(_probe_row(message, event, verdict))
                session.flush()
                view = event_view(session, event.id)
                result = ProbeResult(probe_id=message.probe_id, status="accepted", event=view)
            doomed = self._files.doom(session, [unused])
        if doomed:
            self._files.sweep()
        return result

    def note_status(self, site: str, message: StatusMessage) -> None:
        """Remember what a device (or its last will) says about being online."""
        with self._database.write() as session:
            device = _device(session, message.device)
            device.site, device.online = site, message.online
            if message.online:
                device.last_seen_at = self._clock.now()

    def _still(self, session: Session, searched: Collection, device: str) -> Collection:
        """The collection that was searched, as the transaction sees it."""
        owner = self._collection_for(session, device)
        if owner.number != searched.number:
            raise Unavailable("the collection was replaced during the search; send the probe again")
        return owner

    def _collection_for(self, session: Session, device: str) -> Collection:
        number = session.scalars(
            select(Device.collection_number).where(Device.name == device)
        ).one_or_none()
        own = None if number is None else session.get(Collection, number)
        try:
            return own or collection_named(session, self._default_collection)
        except NotFound as error:
            raise Unavailable(
                f"probes search the collection {self._default_collection!r}, which is gone: "
                "create it, or name another in the settings"
            ) from error


def _list_length(owner: Collection) -> int:
    """Persons to be ranked: those to be kept, and two at least, so that the margin can be seen."""
    return max(policy_of(owner).candidates, 2)


def _verdict(owner: Collection, ranked: Sequence[Candidate], received_at: datetime) -> _Verdict:
    policy = policy_of(owner)
    decision = decide(ranked, policy.threshold, policy.margin)
    return _Verdict(decision, ranked[: policy.candidates], policy, received_at)


def _known(session: Session, message: ProbeMessage) -> ProbeResult | None:
    probe = session.get(Probe, message.probe_id)
    if probe is None:
        return None
    view: EventView | None = None
    if probe.event_id is not None:
        view = event_view(session, probe.event_id)
    return ProbeResult(probe_id=message.probe_id, status="duplicate", event=view)


def _device(session: Session, name: str) -> Device:
    device = session.scalars(select(Device).where(Device.name == name)).one_or_none()
    if device is None:
        device = Device(name=name, received=0)
        session.add(device)
    return device


def _note_device(
    session: Session, message: ProbeMessage, site: str | None, received_at: datetime
) -> None:
    """Count the probe under its device, and say so when numbers are missing before it."""
    device = _device(session, message.device)
    if site is not None:
        device.site = site
    expected = message.sequence if device.last_sequence is None else device.last_sequence + 1
    if message.sequence > expected:
        log.warning(
            "probes are missing",
            extra={"device": device.name, "first": expected, "last": message.sequence - 1},
        )
    device.first_sequence = min(device.first_sequence or message.sequence, message.sequence)
    device.last_sequence = max(device.last_sequence or 0, message.sequence)
    device.received += 1
    device.last_seen_at = received_at


def _sighted(
    session: Session,
    owner: Collection,
    message: ProbeMessage,
    verdict: _Verdict,
    snapshot: str | None,
) -> tuple[Event, str | None]:
    """The event of the probe's track, new or brought up to date.

    It shows its best probe: an identified one before an ambiguous before an unknown, among the
    identified the most similar, among the others the best quality. Answers the event and the
    snapshot file that nobody needs any more.
    """
    event = session.scalars(
        select(Event).where(
            Event.device == message.device,
            Event.camera == message.camera,
            Event.track_id == message.track_id,
        )
    ).one_or_none()
    revision = next_number(session, "events")
    if event is None:
        event = Event(
            id=new_id(),
            revision=revision,
            created_revision=revision,
            device=message.device,
            camera=message.camera,
            track_id=message.track_id,
            first_captured_at=message.captured_at,
            last_captured_at=message.captured_at,
            probes=1,
            person_erased=False,
        )
        _show(session, event, owner, message, verdict, snapshot)
        return event, None
    event.revision = revision
    event.probes += 1
    event.first_captured_at = min(event.first_captured_at, message.captured_at)
    event.last_captured_at = max(event.last_captured_at, message.captured_at)
    better = event.person_erased or _evidence(
        verdict.decision, verdict.similarity, message.quality.score
    ) > _evidence(event.decision, event.similarity, event.quality_score)
    if not better:
        return event, snapshot
    unused = event.snapshot
    session.execute(delete(EventCandidate).where(EventCandidate.event_id == event.id))
    _show(session, event, owner, message, verdict, snapshot)
    return event, unused


def _evidence(decision: str, similarity: float | None, quality: float) -> tuple[int, float]:
    strength = _STRENGTH[decision]
    return strength, (similarity or 0.0) if decision == "identified" else quality


def _show(
    session: Session,
    event: Event,
    owner: Collection,
    message: ProbeMessage,
    verdict: _Verdict,
    snapshot: str | None,
) -> None:
    """Let the event show this probe."""
    window = timedelta(seconds=verdict.policy.live_s)
    age = verdict.received_at - message.captured_at
    event.collection_number = owner.number
    event.decision = verdict.decision
    event.person_number = verdict.person_number
    event.person_erased = False
    event.similarity = verdict.similarity
    event.captured_at = message.captured_at
    event.received_at = verdict.received_at
    # A box whose clock runs ahead must not make old news look fresh: neither way may be far off.
    event.live = abs(age) <= window
    event.expires_at = min(message.captured_at, verdict.received_at) + window
    event.quality = message.quality.model_dump(mode="json")
    event.quality_score = message.quality.score
    event.liveness = message.liveness
    event.box = list(message.box)
    event.frame_size = list(message.frame_size)
    event.snapshot = snapshot
    session.add(event)
    session.flush()
    session.add_all(
        EventCandidate(
            event_id=event.id,
            rank=rank,
            person_number=one.person_number,
            template_id=one.template_id,
            similarity=one.similarity,
        )
        for rank, one in enumerate(verdict.candidates, start=1)
    )


def _probe_row(message: ProbeMessage, event: Event, verdict: _Verdict) -> Probe:
    return Probe(
        id=message.probe_id,
        event_id=event.id,
        device=message.device,
        sequence=message.sequence,
        decision=verdict.decision,
        person_number=verdict.person_number,
        similarity=verdict.similarity,
        captured_at=message.captured_at,
        received_at=verdict.received_at,
    )
