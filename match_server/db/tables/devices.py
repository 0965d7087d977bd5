"""Devices: identity, health, configuration, ledger, and the galleries that they hold."""

from datetime import date, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    ForeignKey,
    Index,
    LargeBinary,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Name, Number, Table, UtcTime


def _of_device() -> Mapped[int]:
    """Part of a primary key: the device that a row goes with."""
    return mapped_column(Number, ForeignKey("devices.number", ondelete="CASCADE"), primary_key=True)


class Device(Table):
    """An edge box that has spoken, or was announced."""

    __tablename__ = "devices"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    site: Mapped[str | None] = mapped_column(Name)  # said when made, or by its topic over MQTT
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL")
    )  # NULL: the default one
    first_sequence: Mapped[int | None] = mapped_column(BigInteger)
    last_sequence: Mapped[int | None] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    online: Mapped[bool | None]  # as its retained status says
    status_at: Mapped[datetime | None] = mapped_column(UtcTime)  # when that was heard
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime | None] = mapped_column(UtcTime)  # NULL: before this was kept
    # Id of the API key by which it signed over the broker last; NULL: it never has, and need not.
    message_key: Mapped[str | None] = mapped_column(String(16))


class DeviceGap(Table):
    """Sequence numbers `first` to `last` of a device, which were passed over and did not come."""

    __tablename__ = "device_gaps"

    device_number: Mapped[int] = _of_device()
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger)


class DeviceHealth(Table):
    """One health message as it came; of each device the newest hour or so."""

    __tablename__ = "device_health"
    __table_args__ = (
        Index("ix_device_health_device", "device_number", "number"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    device_number: Mapped[int] = mapped_column(ForeignKey("devices.number", ondelete="CASCADE"))
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    message: Mapped[Json] = mapped_column(JSON)  # HealthMessage without its ledger


class DeviceConfiguration(Table):
    """What a device is to run with, and what it says that it runs with."""

    __tablename__ = "device_configurations"

    device_number: Mapped[int] = _of_device()
    revision: Mapped[int] = mapped_column(BigInteger)  # of what is desired
    desired: Mapped[Json] = mapped_column(JSON)
    desired_at: Mapped[datetime | None] = mapped_column(UtcTime)
    reported: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))  # ReportedConfig
    reported_at: Mapped[datetime | None] = mapped_column(UtcTime)


class DeviceCode(Table):
    """A code with which a box may fetch its key, once; kept as a hash, gone when it was used."""

    __tablename__ = "device_codes"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    device_number: Mapped[int] = mapped_column(
        ForeignKey("devices.number", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime] = mapped_column(UtcTime)


class LedgerEntry(Table):
    """Why faces before one camera were or were not recognised on one day: totals of that day."""

    __tablename__ = "ledger"

    device_number: Mapped[int] = _of_device()
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    tracks: Mapped[int] = mapped_column(BigInteger)
    with_probe: Mapped[int] = mapped_column(BigInteger)
    reasons: Mapped[Json] = mapped_column(JSON)


class Follower(Table):
    """That a device may hold the templates of a collection, and what it says it has of them.

    A row stays until the device has learned that it may not any more: until then it is one of
    those that an erasure has to reach.
    """

    __tablename__ = "followers"

    device_number: Mapped[int] = mapped_column(
        Number, ForeignKey("devices.number", ondelete="CASCADE"), primary_key=True
    )
    collection_number: Mapped[int] = mapped_column(
        Number, ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True, index=True
    )
    groups: Mapped[list[str]] = mapped_column(JSON)  # ids; none: everybody of the collection
    names: Mapped[bool]  # whether the box learns what the persons are called
    granted_at: Mapped[datetime] = mapped_column(UtcTime)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # Everything up to this number of the feed is durable on the box. 0: a snapshot is under way;
    # NULL: it has never asked for anything.
    seq: Mapped[int | None] = mapped_column(BigInteger)
    spoke_at: Mapped[datetime | None] = mapped_column(UtcTime)  # last
    forgets_at: Mapped[datetime | None] = mapped_column(UtcTime)  # if it does not speak again
    decided: Mapped[int] = mapped_column(BigInteger, default=0)  # probes, by the box itself
    disagreed: Mapped[int] = mapped_column(BigInteger, default=0)  # of these, not confirmed here
