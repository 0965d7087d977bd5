"""Health messages of devices: the newest hour is stored."""

from sqlalchemy import delete, select

from match_server.db.database import Database
from match_server.db.tables import DeviceConfiguration, DeviceHealth
from match_server.services.devices import recognition_ledger
from match_server.services.devices.devices import mark_device_seen
from match_server.services.presence import note_health
from shared.clock import Clock
from shared.wire.device import HealthAnswer, HealthMessage

_KEPT = 120  # messages of each device: an hour at one every 30 seconds


class HealthReports:
    """Stores health messages of all transports."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def take(self, message: HealthMessage, *, site: str | None = None) -> HealthAnswer:
        """Store a message and its ledger. Returns the response for the device."""
        now = self._clock.now()
        with self._database.write() as session:
            device = mark_device_seen(session, message.device, site, now)
            session.flush()
            body = message.model_dump(mode="json", exclude={"ledger"}, exclude_none=True)
            row = DeviceHealth(device_number=device.number, received_at=now, message=body)
            session.add(row)
            recognition_ledger.enter(session, device, message.ledger)
            note_health(session, message, now)
            session.flush()
            oldest_kept = (
                select(DeviceHealth.number)
                .where(DeviceHealth.device_number == device.number)
                .order_by(DeviceHealth.number.desc())
                .offset(_KEPT - 1)
                .limit(1)
            )
            last = session.scalar(oldest_kept)
            if last is not None:
                session.execute(
                    delete(DeviceHealth).where(
                        DeviceHealth.device_number == device.number, DeviceHealth.number < last
                    )
                )
            revision = session.scalar(
                select(DeviceConfiguration.revision).where(
                    DeviceConfiguration.device_number == device.number
                )
            )
        return HealthAnswer(
            device=message.device, answers=message.at, at=now, config_revision=revision or 0
        )
