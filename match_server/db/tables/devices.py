"""The boxes: who they are, how they are, what they run with, what their cameras missed."""

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
