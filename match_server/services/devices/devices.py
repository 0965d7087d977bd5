"""Devices: created by an admin, or by their first message."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    ApiKey,
    Collection,
    Device,
    DeviceConfiguration,
    DeviceGap,
    DeviceHealth,
    LedgerEntry,
)
from match_server.db.text_search import contains
from match_server.schemas.base import Page
from match_server.schemas.devices import (
    ConfigState,
    ConfigStateView,
    DeviceCreate,
    DeviceCreated,
    DeviceDetail,
    DeviceErased,
    DevicePatch,
    DeviceQuery,
    DeviceView,
    GapView,
    HealthPoint,
    SequenceView,
)
from match_server.schemas.keys import KeyCreate
from match_server.services.audit.chain import Note, note
from match_server.services.auth.keys import Keys
from match_server.services.lookups import collection_named, count_of
from match_server.services.paging import page_of
from shared.clock import Clock
from shared.errors import Conflict, NotFound
from shared.wire.device import HealthMessage, ReportedConfig

ONLINE_S = 90
"""A device with a message in this time is online: three intervals of health messages."""
_SHOWN_GAPS = 100


class Devices:
    """Creating, reading, changing and deleting devices."""

    def __init__(self, database: Database, keys: Keys, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock

    def create(self, request: DeviceCreate) -> DeviceCreated:
        """Create a device and its key. Raises Conflict if a device has this name."""
        self.announce(request)
        named = KeyCreate(role="device", name=request.name, device=request.name)
        key = self._keys.create(named).key
        return DeviceCreated(key=key, **self.get(request.name).model_dump(exclude=_DETAILS))

    def announce(self, request: DeviceCreate) -> None:
        """Create a device without a key: it gets one with a code. Raises Conflict as `create`."""
        with self._database.write() as session:
            known = session.scalar(select(Device.number).where(Device.name == request.name))
            if known is not None:
                raise Conflict(
                    f"there is a device {request.name!r} already; an enrollment code gives a "
                    "box that replaces it a new key"
                )
            row = Device(
                name=request.name, site=request.site, received=0, created_at=self._clock.now()
            )
            if request.collection is not None:
                row.collection_number = collection_named(session, request.collection).number
            session.add(row)

    def page(self, query: DeviceQuery) -> Page[DeviceView]:
        """Devices by name."""
        devices = select(Device)
        with self._database.read() as session:
            if query.q is not None:
                devices = devices.where(contains(Device.name, query.q))
            if query.site is not None:
                devices = devices.where(Device.site == query.site)
            if query.collection is not None:
                number = collection_named(session, query.collection).number
                devices = devices.where(Device.collection_number == number)
            views = partial(self._views, session)
            return page_of(session, devices, query, Device.name, views=views)

    def get(self, name: str) -> DeviceDetail:
        with self._database.read() as session:
            row = device_named(session, name)
            (view,) = self._views(session, [row])
            return DeviceDetail(
                gaps=_gaps(session, row), history=_history(session, row), **dict(view)
            )

    def change(self, name: str, patch: DevicePatch) -> DeviceView:
        """Change the fields that the patch has."""
        with self._database.write() as session:
            row = device_named(session, name)
            if patch.site is not None:
                row.site = patch.site
            if "collection" in patch.model_fields_set:
                row.collection_number = (
                    None
                    if patch.collection is None
                    else collection_named(session, patch.collection).number
                )
            session.flush()
            (view,) = self._views(session, [row])
            return view

    def erase(self, name: str) -> DeviceErased:
        """Delete a device and revoke its keys. Its sightings stay."""
        now = self._clock.now()
        with self._database.write() as session:
            row = device_named(session, name)
            days = select(func.count()).where(LedgerEntry.device_number == row.number)
            ledger_days = count_of(session, days)
            revoked = revoke_keys_of(session, name, now)
            note(session, Note("device_forgotten", now, name, details={"keys_revoked": revoked}))
            session.execute(delete(Device).where(Device.number == row.number))
            return DeviceErased(device=name, keys_revoked=revoked, ledger_days=ledger_days)

    def _views(self, session: Session, rows: Sequence[Device]) -> list[DeviceView]:
        """The devices as clients see them. The number of queries does not grow with the list."""
        now = self._clock.now()
        numbers = [row.number for row in rows]
        collections = _collection_names(session, rows)
        keys = _valid_keys(session, [row.name for row in rows])
        missing = _missing(session, numbers)
        health = _newest_health(session, numbers)
        stored = session.scalars(
            select(DeviceConfiguration).where(DeviceConfiguration.device_number.in_(numbers))
        )
        configurations = {row.device_number: row for row in stored}
        views = []
        for row in rows:
            newest = health.get(row.number)
            views.append(
                DeviceView(
                    name=row.name,
                    site=row.site,
                    collection=collections.get(row.collection_number),
                    online=_is_online(row, now),
                    last_seen_at=row.last_seen_at,
                    created_at=row.created_at,
                    valid_keys=keys.get(row.name, 0),
                    sequence=SequenceView(
                        first=row.first_sequence,
                        last=row.last_sequence,
                        received=row.received,
                        missing=missing.get(row.number, 0),
                    ),
                    config=config_state(configurations.get(row.number)),
                    health_at=None if newest is None else newest.received_at,
                    health=None if newest is None else HealthMessage.model_validate(newest.message),
                )
            )
        return views


_DETAILS = {"gaps", "history"}


def device_named(session: Session, name: str) -> Device:
    """The device of that name. Raises NotFound."""
    row = session.scalars(select(Device).where(Device.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"there is no device {name!r}")
    return row


def mark_device_seen(session: Session, name: str, site: str | None, now: datetime) -> Device:
    """The device that has just sent a message. It is created if it is unknown.

    Its row is locked until the transaction ends, so that processes count one after another.
    """
    named = select(Device).where(Device.name == name).with_for_update()
    device = session.scalars(named).one_or_none()
    if device is None:
        device = Device(name=name, received=0, created_at=now)
        session.add(device)
    if site is not None:
        device.site = site
    device.last_seen_at = now
    return device


def revoke_keys_of(session: Session, name: str, now: datetime) -> int:
    """Revoke the keys of this device. Returns their number."""
    revoked = session.scalars(
        update(ApiKey)
        .where(ApiKey.device == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(ApiKey.id)
    ).all()
    for key_id in revoked:
        note(session, Note("key_revoked", now, key_id))
    return len(revoked)


def config_state(row: DeviceConfiguration | None) -> ConfigStateView:
    """The state of the desired configuration, by the last report of the device."""
    desired = 0 if row is None else row.revision
    if row is None or row.reported is None:
        state: ConfigState = "waiting" if desired else "none"
        return ConfigStateView(desired_revision=desired, running_revision=None, state=state)
    reported = ReportedConfig.model_validate(row.reported)
    state = reported.state if reported.tried == desired else "waiting"
    return ConfigStateView(
        desired_revision=desired,
        running_revision=reported.revision,
        state="none" if desired == 0 and reported.revision == 0 else state,
        message=reported.message if reported.tried == desired else None,
    )


def _is_online(row: Device, now: datetime) -> bool:
    seen = row.last_seen_at
    if row.online is False and (seen is None or row.status_at is None or row.status_at >= seen):
        return False
    return bool(row.online) or (seen is not None and now - seen < timedelta(seconds=ONLINE_S))


def _collection_names(session: Session, rows: Sequence[Device]) -> dict[int | None, str]:
    numbers = {row.collection_number for row in rows} - {None}
    if not numbers:
        return {}
    named = select(Collection.number, Collection.name).where(Collection.number.in_(numbers))
    return {row.number: row.name for row in session.execute(named)}


def _valid_keys(session: Session, names: Sequence[str]) -> dict[str | None, int]:
    counted = (
        select(ApiKey.device, func.count().label("keys"))
        .where(ApiKey.device.in_(names), ApiKey.revoked_at.is_(None))
        .group_by(ApiKey.device)
    )
    return {row.device: row.keys for row in session.execute(counted)}


def _missing(session: Session, numbers: Sequence[int]) -> dict[int, int]:
    counted = (
        select(DeviceGap.device_number, func.sum(DeviceGap.last - DeviceGap.first + 1))
        .where(DeviceGap.device_number.in_(numbers))
        .group_by(DeviceGap.device_number)
    )
    return {number: int(count) for number, count in session.execute(counted)}


def _newest_health(session: Session, numbers: Sequence[int]) -> dict[int, DeviceHealth]:
    newest = (
        select(func.max(DeviceHealth.number))
        .where(DeviceHealth.device_number.in_(numbers))
        .group_by(DeviceHealth.device_number)
    )
    rows = session.scalars(select(DeviceHealth).where(DeviceHealth.number.in_(newest)))
    return {row.device_number: row for row in rows}


def _gaps(session: Session, row: Device) -> list[GapView]:
    gaps = session.scalars(
        select(DeviceGap)
        .where(DeviceGap.device_number == row.number)
        .order_by(DeviceGap.first.desc())
        .limit(_SHOWN_GAPS)
    )
    return [GapView(first=gap.first, last=gap.last) for gap in gaps]


def _history(session: Session, row: Device) -> list[HealthPoint]:
    rows = session.scalars(
        select(DeviceHealth)
        .where(DeviceHealth.device_number == row.number)
        .order_by(DeviceHealth.number)
    )
    points = []
    for health in rows:
        message = HealthMessage.model_validate(health.message)
        points.append(
            HealthPoint(
                at=health.received_at,
                temperature_c=message.temperature_c,
                load_1m=message.load_1m,
                memory_bytes=message.memory_bytes,
                waiting=message.waiting,
                fps=round(sum(camera.fps for camera in message.cameras), 2),
                gave_up=message.gave_up,
            )
        )
    return points
