"""Configurations of devices: the desired one, and the one that the device reports."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Device, DeviceConfiguration, Json
from match_server.schemas.devices import ConfigPut, ConfigView, Searched
from match_server.services.collection_ref import collection_ref_of_device
from match_server.services.devices.devices import device_named, mark_device_seen
from match_server.services.encryption.secrets import Secrets
from models.packs.manifest import built_in_manifest
from shared.clock import Clock
from shared.errors import MalformedInput, ModelMismatch, PackError, Unavailable
from shared.wire.device import DesiredConfig, ReportedConfig

log = logging.getLogger(__name__)

OWN_SETTINGS = ("device", "site", "state_dir", "server", "broker")
"""Settings that a device reads only from its own file: its identity and its server."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """The desired configuration of one device, with the parts of its topic."""

    site: str
    device: str
    desired: DesiredConfig
    message_key: str | None = None  # id of the signing key; None: it does not sign


class Configurations:
    """Stores desired and reported configurations. The device itself decides what it uses."""

    def __init__(
        self, database: Database, clock: Clock, default_collection: str, secrets: Secrets
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._clock = clock
        self._default_collection = default_collection

    def get(self, device: str) -> ConfigView:
        with self._database.read() as session:
            row = device_named(session, device)
            view = self._view(row, session.get(DeviceConfiguration, row.number))
            searched = _searched(session, device, self._default_collection)
        return view.model_copy(update={"searches": searched})

    def desire(self, device: str, request: ConfigPut) -> ConfigView:
        """Set the desired configuration; {} means the file of the device alone.

        Raises MalformedInput for settings that a device reads only from its own file, ModelMismatch
        for models whose templates do not fit the collection of the device.
        """
        for name in OWN_SETTINGS:
            if name in request.config:
                raise MalformedInput(
                    f"config.{name}: a box reads this from its own file only, so that a remote "
                    "configuration can neither move it to another server nor lock it out"
                )
        now = self._clock.now()
        with self._database.write() as session:
            row = device_named(session, device)
            self._require_model(session, device, request.config)
            stored = session.get(DeviceConfiguration, row.number)
            if stored is None:
                stored = DeviceConfiguration(device_number=row.number, revision=0, desired={})
                session.add(stored)
            if stored.revision == 0 or self._desired(stored) != request.config:
                stored.revision += 1
                stored.desired = self._secrets.keep_document(row.number, request.config)
                stored.desired_at = now
            session.flush()
            return self._view(row, stored)

    def report(
        self, report: ReportedConfig, *, site: str | None = None, retained: bool = False
    ) -> ConfigView:
        """Store the configuration that a device reports.

        A report that a broker `retained` may be old: it does not make the device online. Raises
        NotFound if the device was deleted meanwhile.
        """
        now = self._clock.now()
        with self._database.write() as session:
            if retained:
                row = device_named(session, report.device)
            else:
                row = mark_device_seen(session, report.device, site, now)
            session.flush()
            stored = session.get(DeviceConfiguration, row.number)
            if stored is None:
                stored = DeviceConfiguration(device_number=row.number, revision=0, desired={})
                session.add(stored)
            stored.reported = report.model_dump(mode="json")
            stored.reported_at = now
            session.flush()
            return self._view(row, stored)

    def desired(self) -> list[DeviceConfig]:
        """The desired configurations of all devices with a known site."""
        query = (
            select(Device.site, Device.name, Device.message_key, DeviceConfiguration)
            .join(DeviceConfiguration, DeviceConfiguration.device_number == Device.number)
            .where(Device.site.is_not(None), DeviceConfiguration.revision > 0)
        )
        with self._database.read() as session:
            return [
                DeviceConfig(
                    site,
                    name,
                    DesiredConfig(revision=row.revision, config=self._desired(row)),
                    message_key,
                )
                for site, name, message_key, row in session.execute(query)
                if site is not None
            ]

    def _require_model(
        self, session: Session, device: str, config: Mapping[str, JsonValue]
    ) -> None:
        models = config.get("models")
        pack = models.get("pack") if isinstance(models, dict) else None
        if not isinstance(pack, str):
            return
        try:
            model_id = built_in_manifest().pack(pack).model_id
        except PackError:
            return  # a pack of the device's own manifest, which only the device knows
        scope = collection_ref_of_device(session.connection(), device, self._default_collection)
        if model_id != scope.model_id:
            raise ModelMismatch(
                f"the pack {pack!r} makes templates of {model_id}, but this device searches "
                f"{scope.name!r}, which holds templates of {scope.model_id}"
            )

    def _desired(self, stored: DeviceConfiguration) -> Json:
        return self._secrets.document(stored.device_number, stored.desired)

    def _view(self, row: Device, stored: DeviceConfiguration | None) -> ConfigView:
        if stored is None:
            return ConfigView(
                device=row.name,
                revision=0,
                config={},
                desired_at=None,
                reported=None,
                reported_at=None,
            )
        reported = stored.reported
        return ConfigView(
            device=row.name,
            revision=stored.revision,
            config=self._desired(stored),
            desired_at=stored.desired_at,
            reported=None if reported is None else ReportedConfig.model_validate(reported),
            reported_at=stored.reported_at,
        )


def _searched(session: Session, device: str, default: str) -> Searched | None:
    """The collection that the probes of a device search; None if it was deleted."""
    try:
        scope = collection_ref_of_device(session.connection(), device, default)
    except Unavailable:
        return None
    return Searched(collection=scope.name, model_id=scope.model_id)
