"""Probes: each is searched once, decided once, and stored as part of a sighting.

The result is returned after the transaction is on the disk. The search runs before the
transaction, so that it blocks no other writer. Inside the transaction all candidates must still
exist; an erasure in between causes another search.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.database import Reader
from match_server.db.tables import Device, Probe
from match_server.schemas.collections import Policy
from match_server.schemas.events import ProbeResult
from match_server.services.collection_ref import CollectionRef, collection_ref_of_device
from match_server.services.devices.devices import mark_device_seen
from match_server.services.devices.sequence_gaps import note_sequences
from match_server.services.encryption.vault import Cipher
from match_server.services.metrics import Metrics
from match_server.services.policy.candidates import Candidate, decide
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.ranking import all_present, rank_persons
from match_server.services.recognition.template_input import template_of
from match_server.services.revision import FeedPosition, feed_position
from match_server.services.sightings.best_shot import ProbeOutcome
from match_server.services.sightings.probe_templates import ShownTemplate, keep_templates
from match_server.services.sightings.queries import as_of, event_view
from match_server.services.sightings.sightings import Sightings
from match_server.services.sightings.track_templates import (
    FusedProbes,
    SearchedShots,
    TrackTemplates,
)
from match_server.services.storage.files import FileStore, Kept
from shared.errors import CollectionUnavailable, Conflict, MalformedInput, ModelMismatch
from shared.wire.messages import ProbeMessage, StatusMessage
from shared.wire.template import Template

log = logging.getLogger(__name__)

_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Readable:
    """A valid probe, and the collection that it searches."""

    message: ProbeMessage
    collection: CollectionRef
    template: Template


@dataclass(frozen=True, slots=True)
class _Searched:
    """A probe with its candidates."""

    message: ProbeMessage
    collection: CollectionRef
    point: OperatingPoint  # as it was when the search was made
    shots: SearchedShots  # of its track, that were searched for it
    candidates: Sequence[Candidate]  # best first
    feed: FeedPosition  # that the search had reached


class _Outdated(Exception):
    """Data that the search used was changed before the transaction."""


class Probes:
    """Searches and stores probes from every transport."""

    def __init__(
        self,
        recognition: Recognition,
        files: FileStore,
        tracks: TrackTemplates,
        metrics: Metrics,
        default_collection: str,
    ) -> None:
        self._database = recognition.database
        self._galleries = recognition.galleries
        self._vault = recognition.vault
        self._points = recognition.points
        self._persons = recognition.persons
        self._clock = recognition.clock
        self._files = files
        self._tracks = tracks
        self._metrics = metrics
        self._default_collection = default_collection

    def accept_all(
        self, messages: Sequence[ProbeMessage], *, site: str | None = None
    ) -> list[ProbeResult]:
        """Search, decide and store probes, in one transaction; a known one is a `duplicate`.

        A probe that can never be stored (model, template) is `refused`; the others are stored.
        Raises Unavailable, with nothing stored, when a later attempt may succeed; where only one
        collection cannot be searched, CollectionUnavailable.
        """
        if not messages:
            return []
        for attempt in range(_TRIES):
            try:
                # The last attempt does not fuse, because other writers keep changing the track.
                results = self._accepted(messages, site, fuse=attempt < _TRIES - 1)
            except _Outdated:
                continue
            self._count(results)
            return results
        raise CollectionUnavailable(
            f"a person was erased during each of {_TRIES} searches; send the probes again"
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
            pairs = [(probe.message, probe.collection) for probe in readable.values()]
            fused = self._tracks.read(pairs) if fuse else None
            searched = self._search(readable, fused, now)
        collections = {probe.collection.number: probe.collection for probe in searched.values()}
        ciphers = {
            number: self._vault.cipher(self._database, collection)
            for number, collection in collections.items()
        }
        thumbnails = {
            probe_id: (data, ciphers[probe.collection.number])
            for probe_id, probe in searched.items()
            if (data := probe.message.thumbnail_jpeg) is not None
        }
        with (
            self._metrics.stage("store"),
            self._files.kept_thumbnails(list(thumbnails.values())) as kept,
        ):
            snapshots = dict(zip(thumbnails, kept, strict=True))
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
        collections: dict[str, CollectionRef] = {}  # by device
        readable: dict[str, _Readable] = {}
        refused: dict[str, ProbeResult] = {}
        for message in messages:
            probe_id = message.probe_id
            if probe_id in readable or probe_id in refused:
                continue
            if message.device not in collections:
                collections[message.device] = self._collection_of(self._database, message.device)
            collection = collections[message.device]
            try:
                template = template_of(message.template, message.model_id, collection)
            except (ModelMismatch, MalformedInput) as error:
                refused[probe_id] = ProbeResult.refused(probe_id, error)
            else:
                readable[probe_id] = _Readable(message, collection, template)
        return readable, refused

    def _search(
        self, probes: Mapping[str, _Readable], fused: FusedProbes | None, now: datetime
    ) -> dict[str, _Searched]:
        """The candidates of the probes, fused with their tracks: one search for each collection."""
        results: dict[str, _Searched] = {}
        for number in {probe.collection.number for probe in probes.values()}:
            group = [probe for probe in probes.values() if probe.collection.number == number]
            collection = group[0].collection
            point = self._points.of_tracks(collection)
            shots = [_shots_of(probe, fused, point) for probe in group]
            rows = np.stack([probe.template.vector for probe in shots])
            reached = self._galleries.caught_up(collection)
            length = _list_length(point.policy)
            lists = rank_persons(
                self._persons.at(reached.feed, collection),
                reached.gallery,
                rows,
                length,
                now,
                templates_a_person=collection.templates_a_person,
            )
            for probe, searched, candidates in zip(group, shots, lists, strict=True):
                results[probe.message.probe_id] = _Searched(
                    probe.message,
                    collection,
                    point,
                    searched,
                    point.judged(candidates),
                    reached.feed,
                )
        return {probe_id: results[probe_id] for probe_id in probes}

    def _store(
        self,
        session: Session,
        searched: Mapping[str, _Searched],
        snapshots: Mapping[str, Kept],
        ciphers: Mapping[int, Cipher],
        site: str | None,
        now: datetime,
    ) -> tuple[dict[str, ProbeResult], int]:
        """Store searched probes; returns the results of new probes, and the files to be deleted."""
        if not searched:
            return {}, 0
        sightings = Sightings(session, len(searched))  # from here on no other writer stores events
        ids = {"ids": list(searched)}
        known = set(session.connection().scalars(_KNOWN, ids))  # by another worker in the meantime
        new = [probe for probe_id, probe in searched.items() if probe_id not in known]
        unused = [snapshots[probe_id].name for probe_id in known & snapshots.keys()]
        results: dict[str, ProbeResult] = {}
        if new:
            self._require_current(session.connection(), new, now)
            _note_devices(session, [probe.message for probe in new], site, now)
            outcomes = [(probe.message, _outcome(probe, now)) for probe in new]
            sightings.load(outcomes)
            for message, outcome in outcomes:
                probe_id = message.probe_id
                view, left_over = sightings.add(message, outcome, snapshots.get(probe_id))
                unused += left_over
                results[probe_id] = ProbeResult(
                    probe_id=probe_id, status="accepted", event=as_of(view, now)
                )
            sightings.write()
            shown = [
                ShownTemplate(event, probe.shots.template, ciphers[probe.collection.number])
                for event, shown_probe in sightings.shown.items()
                for probe in [searched[shown_probe]]
            ]
            keep_templates(session, shown)
        own = {snapshot.name for snapshot in snapshots.values()}
        self._files.discard([name for name in unused if name in own])
        return results, self._files.doom_snapshots(session, set(unused) - own)

    def _require_current(self, reader: Reader, new: Sequence[_Searched], now: datetime) -> None:
        """Raises unless the transaction sees the collections and persons that were searched."""
        for device, searched in {probe.message.device: probe.collection for probe in new}.items():
            collection = self._collection_of(reader, device)
            if collection.number != searched.number:
                raise CollectionUnavailable(
                    "the collection was replaced during the search; send the probe again"
                )
            if collection != searched:
                raise _Outdated
        newest = feed_position(reader)
        if any(probe.feed.epoch != newest.epoch for probe in new):
            raise _Outdated
        if any(probe.feed.seq < newest.seq for probe in new):
            candidates = [candidate for probe in new for candidate in probe.candidates]
            if not all_present(reader, candidates, now):
                raise _Outdated

    def _known(self, messages: Sequence[ProbeMessage]) -> set[str]:
        ids = [message.probe_id for message in messages]
        return {probe_id for (probe_id,) in self._database.execute(_KNOWN, {"ids": ids})}

    def _collection_of(self, reader: Reader, device: str) -> CollectionRef:
        return collection_ref_of_device(reader, device, self._default_collection)

    def note_status(self, site: str, message: StatusMessage) -> None:
        """Store whether a device is online, as the device or its last will reports."""
        now = self._clock.now()
        with self._database.write() as session:
            named = select(Device).where(Device.name == message.device)
            device = session.scalars(named).one_or_none()
            if message.online:
                device = mark_device_seen(session, message.device, site, now)
            if device is not None:  # the last will of a deleted device creates no device
                device.online, device.status_at = message.online, now


_KNOWN = select(Probe.id).where(Probe.id.in_(bindparam("ids", expanding=True)))


def _list_length(policy: Policy) -> int:
    """How many persons are ranked: those that are kept, and at least two for the margin."""
    return max(policy.candidates, 2)


def _shots_of(probe: _Readable, fused: FusedProbes | None, point: OperatingPoint) -> SearchedShots:
    """What is searched for a probe."""
    message = probe.message
    if fused is None:
        return SearchedShots(probe.template, message.shots, replaces=message.shots > 1)
    return fused.add(message, probe.template, probe.collection, point)


def _outcome(searched: _Searched, received_at: datetime) -> ProbeOutcome:
    point = searched.point
    decision = decide(searched.candidates, point.threshold, point.margin)
    kept = searched.candidates[: point.policy.candidates]
    return ProbeOutcome(decision, kept, searched.collection, point, searched.shots, received_at)


def _duplicate(session: Session, message: ProbeMessage, now: datetime) -> ProbeResult:
    """The result of a probe that was stored before, with its sighting as it is now."""
    probe = session.get(Probe, message.probe_id)
    if probe is None:
        raise _Outdated  # deleted since it was looked up
    if probe.device != message.device:  # the sighting belongs to that device
        return ProbeResult(
            probe_id=message.probe_id,
            status="refused",
            code=Conflict.code,
            message="another device has sent a probe with this id: give each an id of its own",
        )
    view = None if probe.event_id is None else event_view(session, probe.event_id)
    current = None if view is None else as_of(view, now)
    return ProbeResult(probe_id=message.probe_id, status="duplicate", event=current)


def _note_devices(
    session: Session, messages: Sequence[ProbeMessage], site: str | None, received_at: datetime
) -> None:
    """Count probes of their devices, and note gaps in their sequence numbers."""
    sequences: dict[str, list[int]] = {}
    for message in messages:
        sequences.setdefault(message.device, []).append(message.sequence)
    for name, numbers in sequences.items():
        device = mark_device_seen(session, name, site, received_at)
        note_sequences(session, device, numbers)
