"""Probes: each is searched once, decided once, and kept as part of a sighting.

A probe is answered after its transaction is on the disk. The search is made before that
transaction, so that nobody waits for it; inside, everybody who was found must still be there: an
erasure that was quicker means another search.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.database import Database, Reader
from match_server.db.tables import Device, Probe
from match_server.schemas.collections import Policy
from match_server.schemas.events import ProbeResult
from match_server.services.change_feed import position
from match_server.services.collection_ref import Scope, scope_of_device
from match_server.services.devices.devices import mark_device_seen
from match_server.services.devices.sequence_gaps import note_sequence
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.galleries.galleries import Galleries
from match_server.services.metrics import Metrics
from match_server.services.recognition.candidates import Candidate, decide
from match_server.services.recognition.operating_point import OperatingPoint, OperatingPoints
from match_server.services.recognition.ranking import all_present, rank_persons
from match_server.services.recognition.template_input import template_of
from match_server.services.sightings.best_shot import Verdict
from match_server.services.sightings.probe_templates import ShownTemplate, keep_templates
from match_server.services.sightings.queries import as_told, event_view
from match_server.services.sightings.sightings import Sightings
from match_server.services.sightings.track_templates import (
    FusedProbes,
    SearchedShots,
    TrackTemplates,
)
from match_server.services.storage.files import FileStore, Kept
from shared.clock import Clock
from shared.errors import CollectionUnavailable, Conflict, MalformedInput, ModelMismatch
from shared.wire.messages import ProbeMessage, StatusMessage
from shared.wire.template import Template

log = logging.getLogger(__name__)

_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Readable:
    """A probe that can be searched, and the collection that it is for."""

    message: ProbeMessage
    scope: Scope
    template: Template


@dataclass(frozen=True, slots=True)
class _Searched:
    """A probe with whom it looks like."""

    message: ProbeMessage
    scope: Scope
    point: OperatingPoint  # as it was when the search was made
    shots: SearchedShots  # of its track, that were searched for it
    candidates: Sequence[Candidate]  # best first
    seq: int  # of the change feed, that the search had reached


class _Outdated(Exception):
    """Between the search and the transaction something changed that the search had found."""


class Probes:
    """Takes probes in, over whichever transport they came."""

    def __init__(
        self,
        database: Database,
        galleries: Galleries,
        files: FileStore,
        clock: Clock,
        default_collection: str,
        vault: Vault,
        points: OperatingPoints,
        tracks: TrackTemplates,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._vault = vault
        self._points = points
        self._tracks = tracks
        self._database = database
        self._galleries = galleries
        self._files = files
        self._clock = clock
        self._default_collection = default_collection

    def accept(self, message: ProbeMessage, *, site: str | None = None) -> ProbeResult:
        """`accept_all` of one probe."""
        (result,) = self.accept_all([message], site=site)
        return result

    def accept_all(
        self, messages: Sequence[ProbeMessage], *, site: str | None = None
    ) -> list[ProbeResult]:
        """Search, decide and store probes, in one transaction; a known one is a `duplicate`.

        A probe that can never be stored (model, template) is answered `refused`, without harm to
        the others. Raises Unavailable, with nothing stored, when trying later may help; where it
        is one collection only that cannot be searched, CollectionUnavailable.
        """
        if not messages:
            return []
        for turn in range(_TRIES):
            try:
                # In the last turn without fusing: others write to the same track all the time.
                results = self._accepted(messages, site, fuse=turn < _TRIES - 1)
            except _Outdated:
                continue
            self._count(results)
            return results
        raise CollectionUnavailable(
            f"during each of {_TRIES} searches somebody was erased; send the probes again"
        )

    def _accepted(
        self, messages: Sequence[ProbeMessage], site: str | None, *, fuse: bool
    ) -> list[ProbeResult]:
        now = self._clock.now()
        known = self._known(messages)
        with self._metrics.stage("decode"):
            readable, refused = self._read(
                [message for message in messages if message.probe_id not in known]
            )
        with self._metrics.stage("search"):
            sent = [(one.message, one.scope) for one in readable.values()]
            fused = self._tracks.read(sent) if fuse else None
            searched = self._search(readable, fused, now)
        with self._metrics.stage("store"), contextlib.ExitStack() as files:
            snapshots: dict[str, Kept | None] = {}
            ciphers: dict[int, Cipher] = {}  # by collection
            for probe_id, one in searched.items():
                scope = one.scope
                if scope.number not in ciphers:
                    ciphers[scope.number] = self._vault.cipher(self._database, scope)
                data, cipher = one.message.thumbnail_jpeg, ciphers[scope.number]
                snapshots[probe_id] = files.enter_context(
                    self._files.kept("snapshots", data, cipher=cipher)
                )
            with self._database.write() if searched else self._database.read() as session:
                if fused is not None and not fused.is_current(session):
                    raise _Outdated
                stored, doomed = self._store(session, searched, snapshots, ciphers, site, now)
                if fused is not None:
                    fused.write(session, ciphers, now)
                results = [
                    refused.get(message.probe_id)
                    or stored.pop(message.probe_id, None)  # once: then it is a duplicate
                    or _duplicate(session, message, now)
                    for message in messages
                ]
        if doomed:
            self._files.sweep()
        return results

    def _count(self, results: Sequence[ProbeResult]) -> None:
        for result in results:
            event = result.event if result.status == "accepted" else None
            self._metrics.probe(
                result.status,
                None if event is None else event.decision,
                live=event is not None and event.live,
            )

    def _read(
        self, messages: Sequence[ProbeMessage]
    ) -> tuple[dict[str, _Readable], dict[str, ProbeResult]]:
        """The probes that can be searched, and the refusals of the others; both by probe id."""
        scopes: dict[str, Scope] = {}  # by device
        readable: dict[str, _Readable] = {}
        refused: dict[str, ProbeResult] = {}
        for message in messages:
            probe_id = message.probe_id
            if probe_id in readable or probe_id in refused:
                continue
            if message.device not in scopes:
                scopes[message.device] = self._scope(self._database, message.device)
            scope = scopes[message.device]
            try:
                template = template_of(message.template, message.model_id, scope)
            except (ModelMismatch, MalformedInput) as error:
                refused[probe_id] = ProbeResult.refused(probe_id, error)
            else:
                readable[probe_id] = _Readable(message, scope, template)
        return readable, refused

    def _search(
        self, probes: Mapping[str, _Readable], fused: FusedProbes | None, now: datetime
    ) -> dict[str, _Searched]:
        """Whom the probes look like, fused with their tracks: one search for each collection."""
        found: dict[str, _Searched] = {}
        for number in {one.scope.number for one in probes.values()}:
            some = [one for one in probes.values() if one.scope.number == number]
            scope = some[0].scope
            point = self._points.of_tracks(scope)
            shots = [_shots_of(one, fused, point) for one in some]
            rows = np.stack([one.template.vector for one in shots])
            reached = self._galleries.caught_up(scope)
            length = _list_length(point.policy)
            lists = rank_persons(self._database, reached.gallery, rows, length, now)
            for one, what, candidates in zip(some, shots, lists, strict=True):
                found[one.message.probe_id] = _Searched(
                    one.message, scope, point, what, point.judged(candidates), reached.seq
                )
        return {probe_id: found[probe_id] for probe_id in probes}

    def _store(
        self,
        session: Session,
        searched: Mapping[str, _Searched],
        snapshots: Mapping[str, Kept | None],
        ciphers: Mapping[int, Cipher],
        site: str | None,
        now: datetime,
    ) -> tuple[dict[str, ProbeResult], int]:
        """Store what was searched; answers the results of what is new, and files to be deleted."""
        if not searched:
            return {}, 0
        sightings = Sightings(session, len(searched))  # nobody else stores events from here on
        ids = {"ids": list(searched)}
        known = set(session.connection().scalars(_KNOWN, ids))  # by another worker, meanwhile
        new = [one for probe_id, one in searched.items() if probe_id not in known]
        spare = [snapshots[probe_id] for probe_id in known]
        unused = [one.name for one in spare if one is not None]
        results: dict[str, ProbeResult] = {}
        if new:
            self._require_current(session.connection(), new, now)
            _note_devices(session, [one.message for one in new], site, now)
            verdicts = [(one.message, _verdict(one, now)) for one in new]
            sightings.load(verdicts)
            for message, verdict in verdicts:
                probe_id = message.probe_id
                view, left_over = sightings.add(message, verdict, snapshots[probe_id])
                unused += left_over
                results[probe_id] = ProbeResult(
                    probe_id=probe_id, status="accepted", event=as_told(view, now)
                )
            sightings.write()
            shown = [
                ShownTemplate(event, one.shots.template, ciphers[one.scope.number])
                for event, probe in sightings.shown.items()
                for one in [searched[probe]]
            ]
            keep_templates(session, shown)
        own = {one.name for one in snapshots.values() if one is not None}
        self._files.discard([name for name in unused if name in own])
        return results, self._files.doom_snapshots(session, set(unused) - own)

    def _require_current(self, reader: Reader, new: Sequence[_Searched], now: datetime) -> None:
        """Raises unless the transaction sees the collections and persons that were searched."""
        for device, searched in {one.message.device: one.scope for one in new}.items():
            scope = self._scope(reader, device)
            if scope.number != searched.number:
                raise CollectionUnavailable(
                    "the collection was replaced during the search; send the probe again"
                )
            if scope != searched:
                raise _Outdated
        if any(one.seq < position(reader) for one in new):
            found = [candidate for one in new for candidate in one.candidates]
            if not all_present(reader, found, now):
                raise _Outdated

    def _known(self, messages: Sequence[ProbeMessage]) -> set[str]:
        ids = [message.probe_id for message in messages]
        return {probe_id for (probe_id,) in self._database.execute(_KNOWN, {"ids": ids})}

    def _scope(self, reader: Reader, device: str) -> Scope:
        return scope_of_device(reader, device, self._default_collection)

    def note_status(self, site: str, message: StatusMessage) -> None:
        """Remember what a device (or its last will) says about being online."""
        now = self._clock.now()
        with self._database.write() as session:
            named = select(Device).where(Device.name == message.device)
            device = session.scalars(named).one_or_none()
            if message.online:
                device = mark_device_seen(session, message.device, site, now)
            if device is not None:  # a will that outlived its device brings nobody back
                device.online, device.status_at = message.online, now


_KNOWN = select(Probe.id).where(Probe.id.in_(bindparam("ids", expanding=True)))


def _list_length(policy: Policy) -> int:
    """Persons to be ranked: those to be kept, and two at least, so that the margin can be seen."""
    return max(policy.candidates, 2)


def _shots_of(probe: _Readable, fused: FusedProbes | None, point: OperatingPoint) -> SearchedShots:
    """What is searched for a probe."""
    message = probe.message
    if fused is None:
        return SearchedShots(probe.template, message.shots, replaces=message.shots > 1)
    return fused.add(message, probe.template, probe.scope, point)


def _verdict(searched: _Searched, received_at: datetime) -> Verdict:
    point = searched.point
    decision = decide(searched.candidates, point.threshold, point.margin)
    kept = searched.candidates[: point.policy.candidates]
    return Verdict(decision, kept, searched.scope, point, searched.shots, received_at)


def _duplicate(session: Session, message: ProbeMessage, now: datetime) -> ProbeResult:
    """The answer to a probe that was stored before, with its sighting as it looks now."""
    probe = session.get(Probe, message.probe_id)
    if probe is None:
        raise _Outdated  # deleted since it was looked up
    if probe.device != message.device:  # whose sighting is none of its business
        return ProbeResult(
            probe_id=message.probe_id,
            status="refused",
            code=Conflict.code,
            message="another device has sent a probe with this id: give each an id of its own",
        )
    view = None if probe.event_id is None else event_view(session, probe.event_id)
    told = None if view is None else as_told(view, now)
    return ProbeResult(probe_id=message.probe_id, status="duplicate", event=told)


def _note_devices(
    session: Session, messages: Sequence[ProbeMessage], site: str | None, received_at: datetime
) -> None:
    """Count probes under their devices, and say so when numbers are missing before them."""
    devices: dict[str, Device] = {}
    for message in messages:
        device = devices.get(message.device)
        if device is None:
            device = mark_device_seen(session, message.device, site, received_at)
            devices[message.device] = device
        note_sequence(session, device, message.sequence)
