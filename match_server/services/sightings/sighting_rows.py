"""The rows of sightings that one transaction reads and writes, each kind with few statements."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from match_server.db.tables import Event, EventCandidate, EventTrack, Probe
from match_server.services.lookups import batches
from match_server.services.sightings.best_shot import Track
from match_server.services.sightings.track_templates import TrackKey

# Plain tables: the ORM would take several times as long for each row as the database.
_EVENTS = cast(SqlTable, Event.__table__)
_TRACKS = cast(SqlTable, EventTrack.__table__)
_CANDIDATES = cast(SqlTable, EventCandidate.__table__)
_COLUMNS = tuple(_EVENTS.c.keys())

_OF_TRACKS = select(_TRACKS).where(_TRACKS.c.track_id.in_(bindparam("ids", expanding=True)))
_OF_IDS = select(_EVENTS).where(_EVENTS.c.id.in_(bindparam("ids", expanding=True)))
_NEARBY = select(_EVENTS).where(
    _EVENTS.c.person_number.in_(bindparam("persons", expanding=True)),
    _EVENTS.c.camera.in_(bindparam("cameras", expanding=True)),
    _EVENTS.c.last_captured_at >= bindparam("since"),
    _EVENTS.c.first_captured_at <= bindparam("until"),
)
_NEW_EVENTS = insert(_EVENTS)
_CHANGED_EVENTS = (
    update(_EVENTS)
    .where(_EVENTS.c.id == bindparam("of_event"))
    .values({name: bindparam(name) for name in _COLUMNS if name != "id"})
)
_NEW_TRACKS = insert(_TRACKS)
_CHANGED_TRACKS = (
    update(_TRACKS)
    .where(
        _TRACKS.c.track_id == bindparam("of_track"),
        _TRACKS.c.device == bindparam("of_device"),
        _TRACKS.c.camera == bindparam("of_camera"),
    )
    .values(
        {name: bindparam(name) for name in ("event_id", "decision", "similarity", "quality_score")}
    )
)
_OLD_CANDIDATES = delete(_CANDIDATES).where(
    _CANDIDATES.c.event_id.in_(bindparam("ids", expanding=True))
)
_NEW_CANDIDATES = insert(_CANDIDATES)
_NEW_PROBES = insert(cast(SqlTable, Probe.__table__))


class SightingRows:
    """Events and tracks in memory; `write` writes what was changed.

    The events are not objects of the session, so only `write` stores them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.events: dict[str, Event] = {}
        self.tracks: dict[TrackKey, Track] = {}
        self._stored: set[str] = set()  # events that have a row
        self._stored_tracks: set[TrackKey] = set()
        self._changed: dict[str, None] = {}  # events to be written, in order
        self._changed_tracks: dict[TrackKey, None] = {}
        self._candidates: dict[str, list[dict[str, Any]]] = {}  # new ones, by event
        self._probes: list[dict[str, Any]] = []

    def load_tracks(self, track_ids: Sequence[str]) -> None:
        """Read the tracks with these ids, and their sightings."""
        connection = self._session.connection()
        rows = connection.execute(_OF_TRACKS, {"ids": track_ids}).all()
        for ids in batches(list({row.event_id for row in rows})):
            self._load(connection.execute(_OF_IDS, {"ids": ids}))
        for row in rows:
            key = row.device, row.camera, row.track_id
            event = self.events[row.event_id]
            self.tracks[key] = Track(event, row.decision, row.similarity, row.quality_score)
            self._stored_tracks.add(key)

    def load_nearby(
        self, persons: Iterable[int], cameras: Iterable[str], since: datetime, until: datetime
    ) -> None:
        """Read the sightings of these persons at these cameras between two moments."""
        limits = {"persons": list(persons), "cameras": list(cameras), "since": since}
        self._load(self._session.connection().execute(_NEARBY, {**limits, "until": until}))

    def change(self, event: Event) -> None:
        """Let `write` store this event, which is new or was changed."""
        self.events[event.id] = event
        self._changed[event.id] = None

    def change_track(self, key: TrackKey, track: Track) -> None:
        """Let `write` store this track, which is new or was changed."""
        self.tracks[key] = track
        self._changed_tracks[key] = None

    def replace_candidates(self, event: Event, rows: list[dict[str, Any]]) -> None:
        self._candidates[event.id] = rows

    def add_probe(self, row: dict[str, Any]) -> None:
        self._probes.append(row)

    def write(self) -> None:
        """Write what was changed since the last call."""
        old = [id_ for id_ in self._candidates if id_ in self._stored]
        for ids in batches(old):
            self._session.connection().execute(_OLD_CANDIDATES, {"ids": ids})
        self._write_events()
        self._write_tracks()
        self._execute(_NEW_CANDIDATES, [row for rows in self._candidates.values() for row in rows])
        self._execute(_NEW_PROBES, self._probes)
        self._candidates, self._probes = {}, []

    def _write_events(self) -> None:
        fields = [vars(self.events[id_]) for id_ in self._changed]
        rows = [{name: values.get(name) for name in _COLUMNS} for values in fields]
        self._execute(_NEW_EVENTS, [row for row in rows if row["id"] not in self._stored])
        changed = [row for row in rows if row["id"] in self._stored]
        self._execute(_CHANGED_EVENTS, [{**row, "of_event": row.pop("id")} for row in changed])
        self._stored |= self._changed.keys()
        self._changed = {}

    def _write_tracks(self) -> None:
        new, changed = [], []
        for key in self._changed_tracks:
            device, camera, track_id = key
            track = self.tracks[key]
            row = {
                "event_id": track.event.id,
                "decision": track.decision,
                "similarity": track.similarity,
                "quality_score": track.quality_score,
            }
            if key in self._stored_tracks:
                of = {"of_track": track_id, "of_device": device, "of_camera": camera}
                changed.append({**row, **of})
            else:
                new.append({**row, "track_id": track_id, "device": device, "camera": camera})
        self._execute(_NEW_TRACKS, new)
        self._execute(_CHANGED_TRACKS, changed)
        self._stored_tracks |= self._changed_tracks.keys()
        self._changed_tracks = {}

    def _execute(self, statement: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._session.connection().execute(statement, rows)

    def _load(self, rows: Iterable[Row[*tuple[Any, ...]]]) -> None:
        """Keep the events of these rows, unless they are known."""
        for row in rows:
            if row.id not in self.events:
                event = self.events[row.id] = Event()
                vars(event).update(zip(_COLUMNS, row, strict=True))  # no session tracks it
                self._stored.add(row.id)
