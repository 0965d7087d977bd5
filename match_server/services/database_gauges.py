"""Figures for Prometheus that are read from the database when it asks."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    Collection,
    Delivery,
    Device,
    DeviceGap,
    Event,
    EventReader,
    Follower,
    Webhook,
)
from match_server.services.change_feed import position
from match_server.services.metrics import disk_free_bytes

_Labels = tuple[tuple[str, str], ...]
_Gauge = tuple[str, str, Mapping[_Labels, float]]


def database_gauges(database: Database, data_dir: Path) -> Iterator[_Gauge]:
    """The name, the help text and the values by labels of each gauge."""
    with database.read() as session:
        yield from _galleries(session)
        yield from _devices(session)
        yield from _notifications(session)
    free = disk_free_bytes(data_dir)
    yield "muster_disk_free_bytes", "Free bytes where the data folder lies.", {(): free}


def _galleries(session: Session) -> Iterator[_Gauge]:
    rows = session.execute(
        select(Collection.name, Collection.template_count, Collection.person_count)
    ).all()
    templates = {_of("collection", name): float(count) for name, count, _ in rows}
    yield "muster_gallery_templates", "Templates by collection.", templates
    persons = {_of("collection", name): float(count) for name, _, count in rows}
    yield "muster_persons", "Persons by collection.", persons
    feed = position(session)
    yield "muster_change_feed_position", "Last number of the change feed.", {(): float(feed)}
    followers = session.execute(
        select(Device.name, Collection.name, Follower.seq, Follower.differs)
        .join(Device, Device.number == Follower.device_number)
        .join(Collection, Collection.number == Follower.collection_number)
        .where(Follower.withdrawn_at.is_(None))
    ).all()
    labels: list[_Labels] = [
        (("device", device), ("collection", collection)) for device, collection, *_ in followers
    ]
    lags = [float(feed - (row.seq or 0)) for row in followers]
    yield (
        "muster_change_feed_lag",
        "Changes that a box has not applied yet.",
        dict(zip(labels, lags, strict=True)),
    )
    differ = [float(row.differs is not None) for row in followers]
    yield (
        "muster_follower_differs",
        "Whether a box differed when it was last compared.",
        dict(zip(labels, differ, strict=True)),
    )


def _devices(session: Session) -> Iterator[_Gauge]:
    devices = session.execute(select(Device.name, Device.online)).all()
    online = {_of("device", name): float(bool(state)) for name, state in devices}
    yield "muster_device_online", "Whether a box says that it is there.", online
    missing = session.execute(
        select(Device.name, func.sum(DeviceGap.last - DeviceGap.first + 1))
        .join(DeviceGap, DeviceGap.device_number == Device.number)
        .group_by(Device.name)
    )
    gaps = {_of("device", name): 0.0 for name, _ in devices}
    gaps |= {_of("device", name): float(count) for name, count in missing}
    yield "muster_device_missing_probes", "Sequence numbers that were passed over.", gaps


def _notifications(session: Session) -> Iterator[_Gauge]:
    newest = position(session, "events")
    yield "muster_event_revision", "Last number of a write to an event.", {(): float(newest)}
    readers = session.execute(select(EventReader.name, EventReader.revision))
    behind = {_of("reader", name): float(newest - revision) for name, revision in readers}
    yield "muster_event_reader_lag", "Writes to events that a publisher has not told.", behind
    webhooks = session.execute(
        select(Webhook.id, Webhook.number, Webhook.revision, Webhook.disabled_at)
    ).all()
    deliveries = select(Delivery.webhook_number, Delivery.dead_at.is_(None), func.count())
    counts = {
        (number, bool(waiting)): float(count)
        for number, waiting, count in session.execute(
            deliveries.group_by(Delivery.webhook_number, Delivery.dead_at.is_(None))
        )
    }
    ahead = {
        number: float(
            session.scalar(select(func.count()).select_from(Event).where(Event.revision > revision))
            or 0
        )
        for _, number, revision, _ in webhooks
    }
    waiting = {
        _of("webhook", name): ahead[number] + counts.get((number, True), 0.0)
        for name, number, _, _ in webhooks
    }
    yield "muster_webhook_waiting", "Events that a webhook is still to be told.", waiting
    dead = {
        _of("webhook", name): counts.get((number, False), 0.0) for name, number, _, _ in webhooks
    }
    yield "muster_webhook_dead", "Events that a webhook did not take.", dead
    enabled = {_of("webhook", name): float(at is None) for name, _, _, at in webhooks}
    yield "muster_webhook_enabled", "Whether a webhook is called.", enabled


def _of(label: str, value: str) -> _Labels:
    return ((label, value),)
