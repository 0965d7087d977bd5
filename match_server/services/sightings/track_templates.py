"""Fuses the probes of one track, so that a search uses all shots of the track.

The edge agent fuses shots itself. Other clients send one shot at a time under one track id: such a
probe is searched as the mean of the track so far, if it agrees with it. For this, templates of
probes are kept for a short time (the setting `fuse_tracks_s`), encrypted like their collection.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import TrackTemplate
from match_server.services.collection_ref import CollectionRef
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.sightings.recent_tracks import MOST_NEARBY, RecentTracks
from shared.clock import Clock
from shared.errors import Damaged, KeyMissing, MalformedInput
from shared.fusion import SAME_PERSON, SAME_PERSON_FMR, weighted_mean
from shared.wire.messages import ProbeMessage
from shared.wire.template import Template, unit_rows

_MOST_SHOTS = 16  # above this, older shots count less
_SAME_VISIT = 0.5  # cosine, without a calibration
_SAME_VISIT_FMR = 1e-5
_LEAST_WEIGHT = 1e-2  # of a shot of no quality, so that its template survives float16

_LEAST_LENGTH = 1e-12  # of a sum with a direction

TrackKey = tuple[str, str, str]  # device, camera, track id
CameraKey = tuple[str, str]  # device, camera


@dataclass(frozen=True, slots=True)
class TrackShots:
    """The shots of one track so far, as one template."""

    template: Template
    weight: float  # length of the weighted sum that the template is the direction of
    shots: int
    sender_fuses: bool
    captured_at: datetime  # of the newest shot
    disputed: bool = False  # a shot did not agree, so the track may show two persons


@dataclass(frozen=True, slots=True)
class SearchedShots:
    """The template that is searched for one probe."""

    template: Template
    shots: int  # that the template rests on
    replaces: bool  # the result replaces earlier results of the track
    earlier_track: str | None = (
        None  # earlier track of this camera with the same face, if the track is new
    )


def add_shot(
    before: TrackShots | None, message: ProbeMessage, template: Template, same_person: float
) -> tuple[TrackShots, SearchedShots]:
    """Add a probe to its track; returns the track and the template to search.

    A single shot is fused with its track if it agrees with it (cosine of at least `same_person`).
    A shot that does not agree is searched alone, and from then on results of the track are compared
    and do not replace each other. Shots that the sender has fused stay as they are. If the sender
    fuses, a probe that arrives after a newer one adds nothing.
    """
    sender_fuses = message.shots > 1 or (before is not None and before.sender_fuses)
    own = TrackShots(
        template, message.quality.score, message.shots, sender_fuses, message.captured_at
    )
    if before is None:
        return own, SearchedShots(template, message.shots, message.shots > 1)
    agrees = float(before.template.vector @ template.vector) >= same_person
    if sender_fuses:
        if message.captured_at < before.captured_at and message.shots <= before.shots:
            return before, SearchedShots(before.template, before.shots, replaces=True)
        return own, SearchedShots(template, message.shots, message.shots > 1 or agrees)
    if not agrees:
        kept = own if before.shots == 1 else before
        return replace(kept, disputed=True), SearchedShots(template, 1, replaces=False)
    weight = before.weight * min(1.0, (_MOST_SHOTS - 1) / before.shots)
    fused, length = weighted_mean([(weight, before.template), (own.weight, template)])
    shots = min(before.shots + 1, _MOST_SHOTS)
    captured_at = max(before.captured_at, message.captured_at)
    after = TrackShots(fused, length, shots, False, captured_at, before.disputed)
    return after, SearchedShots(fused, shots, replaces=not before.disputed)


def same_visit_limit(point: OperatingPoint) -> float:
    """The cosine from which two tracks of a camera show the same stranger.

    It is stricter than for shots of one track, because only the templates connect the tracks, and
    a false match would hide a person.
    """
    if point.calibration is None:
        return _SAME_VISIT
    return point.calibration.threshold_for(_SAME_VISIT_FMR).similarity


def same_person_limit(point: OperatingPoint) -> float:
    """The cosine from which two shots of a track are fused, by the calibration if there is one."""
    if point.calibration is None:
        return SAME_PERSON
    return point.calibration.threshold_for(SAME_PERSON_FMR).similarity


@dataclass(frozen=True, slots=True)
class _Row:
    """The stored state of one track."""

    probe_id: str  # that wrote it
    shots: TrackShots | None  # None: too old, or of another collection or model


class FusedProbes:
    """The probes of one transaction, fused with the earlier shots of their tracks."""

    def __init__(
        self, stored: Mapping[TrackKey, _Row], recent: dict[CameraKey, RecentTracks]
    ) -> None:
        self._stored = stored  # as it was before the search
        self._recent = recent
        self._changed: dict[TrackKey, tuple[TrackShots, CollectionRef, str]] = {}
        self._tracks: set[TrackKey] = set()

    def add(
        self,
        message: ProbeMessage,
        template: Template,
        collection: CollectionRef,
        point: OperatingPoint,
    ) -> SearchedShots:
        """Add a probe, and return the template to search; probes are added in order of arrival."""
        key = _key_of(message)
        self._tracks.add(key)
        stored, changed = self._stored.get(key), self._changed.get(key)
        before = changed[0] if changed else stored.shots if stored else None
        after, searched = add_shot(before, message, template, same_person_limit(point))
        if after is not before:
            # Rounded as in storage, so that a list of probes has the same result as single probes.
            after = replace(after, **_parts(_packed_sum(after), collection.model_id))
            self._changed[key] = after, collection, message.probe_id
            dimension = after.template.dimension
            recent = self._recent.setdefault(key[:2], RecentTracks(dimension))
            recent.put(message.track_id, after.template.vector, after.captured_at)
        if before is not None:
            return searched
        return replace(searched, earlier_track=self._earlier_track(message, template, point))

    def _earlier_track(
        self, message: ProbeMessage, template: Template, point: OperatingPoint
    ) -> str | None:
        """The recent track of this camera that shows the same face; None: there is none."""
        window = timedelta(seconds=point.policy.sighting_s)
        recent = self._recent.get((message.device, message.camera))
        if recent is None or not window:
            return None
        return recent.most_alike(message, template, same_visit_limit(point), window)

    def is_current(self, session: Session) -> bool:
        """Whether no other transaction has written these tracks since they were read."""
        if not self._tracks:
            return True
        written = {
            (device, camera, track_id): probe_id
            for device, camera, track_id, probe_id in session.connection().execute(
                _WRITTEN_BY, {"tracks": _ids(self._tracks)}
            )
        }
        read = {key: row.probe_id for key, row in self._stored.items()}
        return all(written.get(key) == read.get(key) for key in self._tracks)

    def write(self, session: Session, ciphers: Mapping[int, Cipher], now: datetime) -> None:
        """Store the tracks with these probes."""
        connection = session.connection()
        replaced = [_names(key) for key in self._changed if key in self._stored]
        if replaced:
            connection.execute(_DELETE, replaced)
        rows = [
            _packed(key, shots, ciphers[collection.number], collection, probe_id, now)
            for key, (shots, collection, probe_id) in self._changed.items()
        ]
        if rows:
            connection.execute(_INSERT, rows)


class TrackTemplates:
    """Templates of tracks, kept for `kept_s` after their last probe; 0: none are kept."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, kept_s: float) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._kept = timedelta(seconds=kept_s)

    def read(self, probes: Sequence[tuple[ProbeMessage, CollectionRef]]) -> FusedProbes | None:
        """Read the tracks of these probes; None where fusing is off."""
        if not self._kept or not probes:
            return None
        collections = {_key_of(message): collection for message, collection in probes}
        ciphers = {
            number: self._vault.cipher(self._database, collection)
            for number, collection in {each.number: each for each in collections.values()}.items()
        }
        rows = {}
        for row in self._database.execute(_ROWS_OF_TRACKS, {"tracks": _ids(collections)}):
            key: TrackKey = row[:3]
            if key in collections:
                collection = collections[key]
                cipher = ciphers[collection.number]
                rows[key] = self._unpacked(key, row[3:], collection, cipher)
        return FusedProbes(
            rows, self._nearby({key: collections[key] for key in collections.keys() - rows})
        )

    def _nearby(self, new: Mapping[TrackKey, CollectionRef]) -> dict[CameraKey, RecentTracks]:
        """Recent tracks at the cameras of new tracks."""
        cameras = {key[:2]: collection for key, collection in new.items()}
        if not cameras:
            return {}
        parameters: dict[str, Any] = {"cameras": sorted({camera for _, camera in cameras})}
        parameters |= {"most": MOST_NEARBY, "skipped": 0}
        of_cameras: dict[CameraKey, list[Sequence[Any]]] = {}
        for row in self._database.execute(_ROWS_OF_CAMERAS, parameters):
            if row[:2] in cameras:
                of_cameras.setdefault(row[:2], []).append(row)
        return {
            camera: self._recent_tracks(rows, cameras[camera])
            for camera, rows in of_cameras.items()
        }

    def _recent_tracks(
        self, rows: Sequence[Sequence[Any]], collection: CollectionRef
    ) -> RecentTracks:
        """The tracks of one camera in these rows, without those that cannot be used."""
        recent = RecentTracks(collection.dimension)
        cipher = self._vault.cipher(self._database, collection)
        opened = [
            (row, self._opened((row[0], row[1], row[2]), row[3:], collection, cipher))
            for row in rows
        ]
        usable = [(row, packed) for row, packed in opened if packed is not None]
        sums = np.frombuffer(b"".join(packed for _, packed in usable), "<f2")
        sums = sums.reshape(-1, collection.dimension).astype(np.float64)
        lengths = np.linalg.norm(sums, axis=1)
        for (row, _), total, length in zip(usable, sums, lengths.tolist(), strict=True):
            if _LEAST_LENGTH <= length < math.inf:  # false for NaN too
                recent.put(row[2], (total / length).astype(np.float32), row[_CAPTURED_AT])
        return recent

    def sweep(self) -> int:
        """Delete expired rows, and return how many they were."""
        old = TrackTemplate.received_at < self._clock.now() - self._kept
        with self._database.read() as session:
            if session.execute(select(TrackTemplate.track_id).where(old).limit(1)).first() is None:
                return 0
        with self._database.write() as session:
            gone = session.execute(delete(TrackTemplate).where(old).returning(TrackTemplate.shots))
            return len(gone.all())

    def _unpacked(
        self, key: TrackKey, values: Sequence[Any], collection: CollectionRef, cipher: Cipher
    ) -> _Row:
        probe_id, _, model_id, _, shots, fuses, captured, _, disputed = values
        packed = self._opened(key, values, collection, cipher)
        if packed is None:
            return _Row(probe_id, None)
        try:
            parts = _parts(packed, model_id)
        except MalformedInput:
            return _Row(probe_id, None)
        unpacked = TrackShots(
            shots=shots, sender_fuses=fuses, captured_at=captured, disputed=disputed, **parts
        )
        return _Row(probe_id, unpacked)

    def _opened(
        self, key: TrackKey, values: Sequence[Any], collection: CollectionRef, cipher: Cipher
    ) -> bytes | None:
        """The decrypted sum of a row; None if it is too old, or of another collection or model."""
        _, number, model_id, vector, *_, received, _ = values
        usable = (number, model_id) == (collection.number, collection.model_id)
        if not usable or received < self._clock.now() - self._kept:
            return None
        try:
            (opened,) = cipher.open_vectors(model_id, [("/".join(key), vector)])
        except (Damaged, KeyMissing):  # encrypted with a key that was retired since
            return None
        return opened if len(opened) == 2 * collection.dimension else None


_COLUMNS = cast(SqlTable, TrackTemplate.__table__).c
_KEY = (_COLUMNS.device, _COLUMNS.camera, _COLUMNS.track_id)
_OF_TRACKS = _COLUMNS.track_id.in_(bindparam("tracks", expanding=True))
_WRITTEN_BY = select(*_KEY, _COLUMNS.probe_id).where(_OF_TRACKS)
_ROWS = select(
    *_KEY,
    _COLUMNS.probe_id,
    _COLUMNS.collection_number,
    _COLUMNS.model_id,
    _COLUMNS.vector,
    _COLUMNS.shots,
    _COLUMNS.sender_fuses,
    _COLUMNS.captured_at,
    _COLUMNS.received_at,
    _COLUMNS.disputed,
)
_CAPTURED_AT = 9  # place of that column
_ROWS_OF_TRACKS = _ROWS.where(_OF_TRACKS)
_ROWS_OF_CAMERAS = (
    _ROWS.where(_COLUMNS.camera.in_(bindparam("cameras", expanding=True)))
    .order_by(_COLUMNS.received_at.desc())
    .limit(bindparam("most"))
    .offset(bindparam("skipped"))  # SQLite would make an unnamed parameter of it
)
_DELETE = delete(cast(SqlTable, TrackTemplate.__table__)).where(
    *(column == bindparam(f"{column.name}_") for column in _KEY)
)
_INSERT = insert(cast(SqlTable, TrackTemplate.__table__))


def _key_of(message: ProbeMessage) -> TrackKey:
    return message.device, message.camera, message.track_id


def _names(key: TrackKey) -> dict[str, str]:
    device, camera, track_id = key
    return {"device_": device, "camera_": camera, "track_id_": track_id}


def _ids(tracks: Iterable[TrackKey]) -> list[str]:
    return sorted({track_id for _, _, track_id in tracks})


def _packed_sum(shots: TrackShots) -> bytes:
    """The weighted sum of the shots as little-endian float16."""
    total = max(shots.weight, _LEAST_WEIGHT) * shots.template.vector
    return total.astype("<f2").tobytes()


def _parts(packed: bytes, model_id: str) -> dict[str, Any]:
    """The template and the weight of a packed sum. Raises MalformedInput."""
    total = np.frombuffer(packed, "<f2").astype(np.float32)
    template = Template(model_id, unit_rows(total[np.newaxis])[0])
    return {"template": template, "weight": float(np.linalg.norm(total))}


def _packed(
    key: TrackKey,
    shots: TrackShots,
    cipher: Cipher,
    collection: CollectionRef,
    probe_id: str,
    now: datetime,
) -> dict[str, Any]:
    device, camera, track_id = key
    vector = _packed_sum(shots)
    return {
        "device": device,
        "camera": camera,
        "track_id": track_id,
        "probe_id": probe_id,
        "collection_number": collection.number,
        "model_id": collection.model_id,
        "vector": cipher.seal_vector("/".join(key), collection.model_id, vector),
        "shots": shots.shots,
        "sender_fuses": shots.sender_fuses,
        "captured_at": shots.captured_at,
        "disputed": shots.disputed,
        "received_at": now,
    }
