"""Persons in view of the cameras now: from track messages, corrected by health messages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    CameraView,
    Device,
    DeviceHealth,
    Event,
    EventTrack,
    Person,
    TrackInView,
)
from match_server.schemas.events import CameraPresence, Presences, TracksTaken
from match_server.schemas.persons import PersonName
from shared.clock import Clock
from shared.wire.device import HealthMessage
from shared.wire.messages import TrackMessage

_LATE = timedelta(seconds=60)
"""A track message this far from its time is ignored."""

_SILENCE = timedelta(seconds=120)
"""A device without any message for this long (it sends its health every 30 s) is offline."""


_SETTLED = timedelta(seconds=5)
"""Health that is this much newer than the last track message wins where they differ."""

_BLIND = ("stalled", "lost", "ended")


@dataclass(frozen=True, slots=True)
class _CameraKey:
    device: str
    camera: str


@dataclass(slots=True)
class _Decided:
    """The results of searches for the tracks in view of one camera."""

    persons: list[PersonName]
    unknown: int  # sightings of persons who are not enrolled
    sightings: list[str]


_NOBODY = _Decided([], 0, [])


class Presence:
    """Stores and reads which faces are in view, by camera."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def note(self, messages: Sequence[TrackMessage]) -> TracksTaken:
        """Store track messages, in any order and any number of times."""
        now = self._clock.now()
        timely = [message for message in messages if abs(now - message.at) <= _LATE]
        if timely:
            with self._database.write() as session:
                for message in timely:
                    _note(session, message, now)
        return TracksTaken(taken=len(timely), late=len(messages) - len(timely))

    def now(self) -> Presences:
        """The persons in view of every known camera."""
        now = self._clock.now()
        with self._database.read() as session:
            rows = session.execute(
                select(CameraView, Device.site, Device.online, Device.last_seen_at)
                .join(Device, Device.name == CameraView.device)
                .order_by(CameraView.device, CameraView.camera)
            ).all()
            decided = _decided(session)
            blind = _blind_since(session)
        views = []
        for camera, site, online, seen_at in rows:
            last_seen_at = max(camera.received_at, seen_at or camera.received_at)
            key = _CameraKey(camera.device, camera.camera)
            sees = key not in blind or camera.received_at > blind[key]
            visible = online is not False and now - last_seen_at <= _SILENCE and sees
            result = decided.get(key, _NOBODY) if visible else _NOBODY
            named = len(result.persons)
            in_view = max(camera.in_view, named) if visible else 0
            unknown = min(result.unknown, in_view - named)
            views.append(
                CameraPresence(
                    device=camera.device,
                    site=site,
                    camera=camera.camera,
                    online=visible,
                    in_view=in_view,
                    persons=result.persons,
                    unknown=unknown,
                    undecided=in_view - named - unknown,
                    sightings=result.sightings,
                )
            )
        return Presences(items=views)

    def note_cameras(self, cameras: Iterable[tuple[str, str]]) -> None:
        """Store cameras that are known only by their events, without tracks."""
        now = self._clock.now()
        with self._database.write() as session:
            for device, camera in cameras:
                if session.get(CameraView, (device, camera)) is None:
                    session.add(
                        CameraView(device=device, camera=camera, in_view=0, at=now, received_at=now)
                    )


def _note(session: Session, message: TrackMessage, now: datetime) -> None:
    key = message.device, message.camera
    camera = session.get(CameraView, key)
    older = camera is not None and message.at < camera.at
    if camera is None:
        camera = CameraView(device=key[0], camera=key[1], in_view=0, at=message.at, received_at=now)
        session.add(camera)
    camera.received_at = now
    track = session.get(TrackInView, (*key, message.track_id))
    if message.state == "ended":
        if track is not None:
            session.delete(track)
    elif track is None and not older:  # an older track may have ended already
        session.add(
            TrackInView(
                device=key[0],
                camera=key[1],
                track_id=message.track_id,
                began_at=message.began_at,
            )
        )
    if not older:
        camera.in_view, camera.at = message.in_view, message.at
        if message.in_view == 0:  # also ends tracks whose last message was lost
            session.flush()
            _forget_tracks(session, *key)
    session.flush()


def note_health(session: Session, message: HealthMessage, now: datetime) -> None:
    """Update the cameras of a device: which exist, and how many faces each has in view.

    So a camera is known before a person passes it, a removed camera is deleted, and tracks whose
    last message was lost are ended. `at` of a camera stays that of its last track message, because
    track messages may arrive a little later than health that was written after them.
    """
    if not message.cameras or abs(now - message.at) > _LATE:
        return
    known = {
        camera.camera: camera
        for camera in session.scalars(select(CameraView).where(CameraView.device == message.device))
    }
    for report in message.cameras:
        camera = known.pop(report.camera, None)
        if camera is None:
            session.add(
                CameraView(
                    device=message.device,
                    camera=report.camera,
                    in_view=report.in_view,
                    at=message.at - _SETTLED,
                    received_at=now,
                )
            )
        elif camera.in_view != report.in_view and message.at - camera.at > _SETTLED:
            camera.in_view = report.in_view
            if report.in_view == 0:
                _forget_tracks(session, message.device, report.camera)
    for gone in known.values():
        if now - gone.received_at > _SILENCE:
            _forget_tracks(session, gone.device, gone.camera)
            session.delete(gone)


def _forget_tracks(session: Session, device: str, camera: str) -> None:
    session.execute(
        delete(TrackInView).where(TrackInView.device == device, TrackInView.camera == camera)
    )


def _blind_since(session: Session) -> dict[_CameraKey, datetime]:
    """The cameras without pictures, by the newest health of their device, with its receipt."""
    newest = select(func.max(DeviceHealth.number)).group_by(DeviceHealth.device_number)
    rows = session.execute(
        select(Device.name, DeviceHealth.received_at, DeviceHealth.message)
        .join(Device, Device.number == DeviceHealth.device_number)
        .where(DeviceHealth.number.in_(newest))
    )
    return {
        _CameraKey(device, camera["camera"]): at
        for device, at, message in rows
        for camera in message.get("cameras", [])
        if camera["state"] in _BLIND
    }


def _decided(session: Session) -> dict[_CameraKey, _Decided]:
    """The results of searches for the tracks in view, with each person once."""
    rows = session.execute(
        select(
            TrackInView.device,
            TrackInView.camera,
            Event.id,
            Person.number,
            Person.id,
            Person.name,
        )
        .join(
            EventTrack,
            (EventTrack.device == TrackInView.device)
            & (EventTrack.camera == TrackInView.camera)
            & (EventTrack.track_id == TrackInView.track_id),
        )
        .join(Event, Event.id == EventTrack.event_id)
        .outerjoin(Person, Person.number == Event.person_number)
        .distinct()
        .order_by(Person.name, Person.id, Event.id)
    )
    decided: dict[_CameraKey, _Decided] = {}
    shown: set[tuple[_CameraKey, int]] = set()  # an id may be of several persons
    for device, camera_name, event, number, person, name in rows:
        key = _CameraKey(device, camera_name)
        camera = decided.setdefault(key, _Decided([], 0, []))
        camera.sightings.append(event)
        if person is None:
            camera.unknown += 1
        elif (key, number) not in shown:
            shown.add((key, number))
            camera.persons.append(PersonName(id=person, name=name))
    for camera in decided.values():
        camera.sightings.sort(reverse=True)  # ids are by time
    return decided
