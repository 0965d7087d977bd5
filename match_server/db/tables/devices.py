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
    """Part of a primary key: the device of a row, which is deleted with it."""
    return mapped_column(Number, ForeignKey("devices.number", ondelete="CASCADE"), primary_key=True)


class Device(Table):
    """A device that has sent a message, or was announced."""

    __tablename__ = "devices"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    site: Mapped[str | None] = mapped_column(Name)  # set at its creation, or by its topic over MQTT
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL")
    )  # NULL: the default one
    first_sequence: Mapped[int | None] = mapped_column(BigInteger)
    last_sequence: Mapped[int | None] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    online: Mapped[bool | None]  # as its retained status says
    status_at: Mapped[datetime | None] = mapped_column(UtcTime)  # when that was received
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime | None] = mapped_column(
        UtcTime
    )  # NULL: created by an older version
    # Id of the API key of its last signature over MQTT; NULL: it never signed, and need not.
    message_key: Mapped[str | None] = mapped_column(String(16))


class DeviceGap(Table):
    """Sequence numbers `first` to `last` of a device, which are missing."""

    __tablename__ = "device_gaps"

    device_number: Mapped[int] = _of_device()
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger)


class DeviceHealth(Table):
    """One health message, as received; of each device about the newest hour."""

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
    """The desired and the reported configuration of a device."""

    __tablename__ = "device_configurations"

    device_number: Mapped[int] = _of_device()
    revision: Mapped[int] = mapped_column(BigInteger)  # of the desired configuration
    desired: Mapped[Json] = mapped_column(JSON)
    desired_at: Mapped[datetime | None] = mapped_column(UtcTime)
    reported: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))  # ReportedConfig
    reported_at: Mapped[datetime | None] = mapped_column(UtcTime)


class DeviceCode(Table):
    """An enrollment code, for one use: stored as a hash, deleted when it was used."""

    __tablename__ = "device_codes"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    device_number: Mapped[int] = mapped_column(
        ForeignKey("devices.number", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime] = mapped_column(UtcTime)


class LedgerEntry(Table):
    """Counts of one day and camera: why faces were or were not recognised."""

    __tablename__ = "ledger"

    device_number: Mapped[int] = _of_device()
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    tracks: Mapped[int] = mapped_column(BigInteger)
    with_probe: Mapped[int] = mapped_column(BigInteger)
    reasons: Mapped[Json] = mapped_column(JSON)


class Follower(Table):
    """The permission of a device to hold the gallery of a collection, and its progress.

    After a withdrawal the row stays until the device has received it: until then an erasure waits
    for the device.
    """

    __tablename__ = "followers"

    device_number: Mapped[int] = mapped_column(
        Number, ForeignKey("devices.number", ondelete="CASCADE"), primary_key=True
    )
    collection_number: Mapped[int] = mapped_column(
        Number, ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True, index=True
    )
    groups: Mapped[list[str]] = mapped_column(JSON)  # ids; none: all persons of the collection
    names: Mapped[bool]  # whether the device receives names of persons
    granted_at: Mapped[datetime] = mapped_column(UtcTime)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # The device has stored all changes up to this number. 0: it is reading a snapshot; NULL: it has
    # never requested anything.
    seq: Mapped[int | None] = mapped_column(BigInteger)
    spoke_at: Mapped[datetime | None] = mapped_column(UtcTime)  # last
    forgets_at: Mapped[datetime | None] = mapped_column(UtcTime)  # if it sends no request before
    differs: Mapped[str | None] = mapped_column(String(200))  # how, when last compared; NULL: not
    renewed_at: Mapped[datetime | None] = mapped_column(
        UtcTime
    )  # last new snapshot because of that
    decided: Mapped[int] = mapped_column(
        BigInteger, default=0
    )  # probes that the device decided itself
    disagreed: Mapped[int] = mapped_column(
        BigInteger, default=0
    )  # of these, decided differently by this server
