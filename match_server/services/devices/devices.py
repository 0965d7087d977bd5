"""Devices: announced by an admin, or known since they first spoke."""

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
"""A device that was heard within this time counts as online: three health messages."""
_SHOWN_GAPS = 100


class Devices:
    """Creating, reading, changing and forgetting devices."""

    def __init__(self, database: Database, keys: Keys, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock

    def create(self, wanted: DeviceCreate) -> DeviceCreated:
        """A new device and its key. Conflict when there is one of that name."""
        self.announce(wanted)
        named = KeyCreate(role="device", name=wanted.name, device=wanted.name)
        key = self._keys.create(named).key
        return DeviceCreated(key=key, **self.get(wanted.name).model_dump(exclude=_DETAILS))

    def announce(self, wanted: DeviceCreate) -> None:
        """A new device without a key: it comes for one with a code. Conflict as above."""
        with self._database.write() as session:
            known = session.scalar(select(Device.number).where(Device.name == wanted.name))
            if known is not None:
                raise Conflict(
                    f"there is a device {wanted.name!r} already; an enrollment code gives a "
                    "box that replaces it a new key"
                )
            row = Device(
                name=wanted.name, site=wanted.site, received=0, created_at=self._clock.now()
            )
            if wanted.collection is not None:
                row.collection_number = collection_named(session, wanted.collection).number
            session.add(row)

    def page(self, query: DeviceQuery) -> Page[DeviceView]:
        """Devices by name."""
        wanted = select(Device)
        with self._database.read() as session:
            if query.q is not None:
                wanted = wanted.where(contains(Device.name, query.q))
            if query.site is not None:
                wanted = wanted.where(Device.site == query.site)
            if query.collection is not None:
                owner = collection_named(session, query.collection)
                wanted = wanted.where(Device.collection_number == owner.number)
            views = partial(self._views, session)
            return page_of(session, wanted, query, Device.name, views=views)

    def get(self, name: str) -> DeviceDetail:
        with self._database.read() as session:
            row = device_named(session, name)
            (view,) = self._views(session, [row])
            return DeviceDetail(
                gaps=_gaps(session, row), history=_history(session, row), **dict(view)
            )

    def change(self, name: str, patch: DevicePatch) -> DeviceView:
        """Change what the patch gives."""
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
        """Forget a device and revoke the keys that speak for it alone. Its sightings stay."""
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
        """The devices as clients see them, with as many queries for many as for one."""
        now = self._clock.now()
        numbers = [row.number for row in rows]
        collections = _collection_names(session, rows)
        keys = _valid_keys(session, [row.name for row in rows])
        missing = _missing(session, numbers)
        health = _newest_health(session, numbers)
        found = session.scalars(
            select(DeviceConfiguration).where(DeviceConfiguration.device_number.in_(numbers))
        )
        configurations = {one.device_number: one for one in found}
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
    """The device of that name; NotFound when there is none."""
    found = session.scalars(select(Device).where(Device.name == name)).one_or_none()
    if found is None:
        raise NotFound(f"there is no device {name!r}")
    return found


def mark_device_seen(session: Session, name: str, site: str | None, now: datetime) -> Device:
    """The device of that name, which has just spoken: known from now on, seen now.

    Its row is locked until the transaction ends, so that two processes count one after the other.
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
    """Ends the keys that speak for this device alone; how many there were."""
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
    """How far the desired configuration has come, by what the device last said."""
    desired = 0 if row is None else row.revision
    if row is None or row.reported is None:
        state: ConfigState = "waiting" if desired else "none"
        return ConfigStateView(desired_revision=desired, running_revision=None, state=state)
    said = ReportedConfig.model_validate(row.reported)
    state = said.state if said.tried == desired else "waiting"
    return ConfigStateView(
        desired_revision=desired,
        running_revision=said.revision,
        state="none" if desired == 0 and said.revision == 0 else state,
        message=said.message if said.tried == desired else None,
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
    found = session.scalars(select(DeviceHealth).where(DeviceHealth.number.in_(newest)))
    return {row.device_number: row for row in found}


def _gaps(session: Session, row: Device) -> list[GapView]:
    found = session.scalars(
        select(DeviceGap)
        .where(DeviceGap.device_number == row.number)
        .order_by(DeviceGap.first.desc())
        .limit(_SHOWN_GAPS)
    )
    return [GapView(first=one.first, last=one.last) for one in found]


def _history(session: Session, row: Device) -> list[HealthPoint]:
    found = session.scalars(
        select(DeviceHealth)
        .where(DeviceHealth.device_number == row.number)
        .order_by(DeviceHealth.number)
    )
    points = []
    for one in found:
        said = HealthMessage.model_validate(one.message)
        points.append(
            HealthPoint(
                at=one.received_at,
                temperature_c=said.temperature_c,
                load_1m=said.load_1m,
                memory_bytes=said.memory_bytes,
                waiting=said.waiting,
                fps=round(sum(camera.fps for camera in said.cameras), 2),
                gave_up=said.gave_up,
            )
        )
    return points
