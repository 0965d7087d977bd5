"""Who is before the cameras now: kept from what boxes say of tracks that begin and end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.schemas.events import CameraPresence, Presences, TracksTaken
from match_server.schemas.persons import PersonName
from match_server.tables import CameraView, Device, Event, EventTrack, Person, TrackInView
from shared.clock import Clock
from shared.messages import TrackMessage

_LATE = timedelta(seconds=60)
"""A track message this far from its time says nothing about now: it is left aside."""

_SILENCE = timedelta(seconds=120)
"""A box that said nothing at all for so long (it sends its health every 30 s) sees nobody."""


@dataclass(frozen=True, slots=True)
class _Place:
    device: str
    camera: str


class Presence:
    """The faces that are in view, by camera."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def note(self, messages: Sequence[TrackMessage]) -> TracksTaken:
        """Take what boxes say of their tracks, in whatever order and however often it comes."""
        now = self._clock.now()
        timely = [one for one in messages if abs(now - one.at) <= _LATE]
        if timely:
            with self._database.write() as session:
                for message in timely:
                    _note(session, message, now)
        return TracksTaken(taken=len(timely), late=len(messages) - len(timely))

    def now(self) -> Presences:
        """Everybody who is in view, of every camera that was ever heard of."""
        now = self._clock.now()
        with self._database.read() as session:
            rows = session.execute(
                select(CameraView, Device.site, Device.online, Device.last_seen_at)
                .join(Device, Device.name == CameraView.device)
                .order_by(CameraView.device, CameraView.camera)
            ).all()
            people = _people(session)
        views = []
        for camera, site, online, seen_at in rows:
            heard_at = max(camera.heard_at, seen_at or camera.heard_at)
            there = online is not False and now - heard_at <= _SILENCE
            known = people.get(_Place(camera.device, camera.camera), [])
            in_view = max(camera.in_view, len(known)) if there else 0
            views.append(
                CameraPresence(
                    device=camera.device,
                    site=site,
                    camera=camera.camera,
                    online=there,
                    in_view=in_view,
                    persons=known if there else [],
                    unknown=in_view - len(known) if there else 0,
                )
            )
        return Presences(items=views)

    def note_cameras(self, places: Iterable[tuple[str, str]]) -> None:
        """Remember cameras that are only known by their events, so far without tracks."""
        now = self._clock.now()
        with self._database.write() as session:
            for device, camera in places:
                if session.get(CameraView, (device, camera)) is None:
                    session.add(
                        CameraView(device=device, camera=camera, in_view=0, at=now, heard_at=now)
                    )


def _note(session: Session, message: TrackMessage, now: datetime) -> None:
    key = message.device, message.camera
    camera = session.get(CameraView, key)
    older = camera is not None and message.at < camera.at
    if camera is None:
        camera = CameraView(device=key[0], camera=key[1], in_view=0, at=message.at, heard_at=now)
        session.add(camera)
    camera.heard_at = now
    track = session.get(TrackInView, (*key, message.track_id))
    if message.state == "ended":
        if track is not None:
            session.delete(track)
    elif track is None and not older:  # one that is older may have ended meanwhile
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
        if message.in_view == 0:  # heals what a lost message left behind
            session.flush()
            session.execute(
                delete(TrackInView).where(
                    TrackInView.device == key[0], TrackInView.camera == key[1]
                )
            )
    session.flush()


def _people(session: Session) -> dict[_Place, list[PersonName]]:
    """The persons of the tracks in view: each once, however many tracks show them."""
    rows = session.execute(
        select(TrackInView.device, TrackInView.camera, Person.id, Person.name)
        .join(
            EventTrack,
            (EventTrack.device == TrackInView.device)
            & (EventTrack.camera == TrackInView.camera)
            & (EventTrack.track_id == TrackInView.track_id),
        )
        .join(Event, Event.id == EventTrack.event_id)
        .join(Person, Person.number == Event.person_number)
        .distinct()
        .order_by(Person.name, Person.id)
    )
    found: dict[_Place, list[PersonName]] = {}
    for device, camera, person, name in rows:
        found.setdefault(_Place(device, camera), []).append(PersonName(id=person, name=name))
    return found
