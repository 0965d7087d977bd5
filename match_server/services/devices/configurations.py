"""What a box is to run with, and what it says that it runs with."""

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
"""Settings of a box that it takes from its own file only: who it is, and whom it obeys."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """The desired configuration of one box, and where its topic is."""

    site: str
    device: str
    desired: DesiredConfig
    message_key: str | None = None  # id of the key by which the device signs; None: it does not


class Configurations:
    """Desired and reported configurations. The box decides; here is only written down."""

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

    def desire(self, device: str, wanted: ConfigPut) -> ConfigView:
        """Want another configuration; {} goes back to the box's own file.

        Raises MalformedInput for settings that no box takes from elsewhere, ModelMismatch for
        models whose templates this device's collection cannot be searched with.
        """
        for name in OWN_SETTINGS:
            if name in wanted.config:
                raise MalformedInput(
                    f"config.{name}: a box takes this from its own file only, so that nobody "
                    "can lead it away or lock it out from afar"
                )
        now = self._clock.now()
        with self._database.write() as session:
            row = device_named(session, device)
            self._require_model(session, device, wanted.config)
            stored = session.get(DeviceConfiguration, row.number)
            if stored is None:
                stored = DeviceConfiguration(device_number=row.number, revision=0, desired={})
                session.add(stored)
            if stored.revision == 0 or self._desired(stored) != wanted.config:
                stored.revision += 1
                stored.desired = self._secrets.keep_document(row.number, wanted.config)
                stored.desired_at = now
            session.flush()
            return self._view(row, stored)

    def report(
        self, said: ReportedConfig, *, site: str | None = None, retained: bool = False
    ) -> ConfigView:
        """Write down what a box says that it runs with.

        What a broker `retained` was said some time ago: it is no sign of life. Raises NotFound
        when it is about a device that has been forgotten since.
        """
        now = self._clock.now()
        with self._database.write() as session:
            if retained:
                row = device_named(session, said.device)
            else:
                row = mark_device_seen(session, said.device, site, now)
            session.flush()
            stored = session.get(DeviceConfiguration, row.number)
            if stored is None:
                stored = DeviceConfiguration(device_number=row.number, revision=0, desired={})
                session.add(stored)
            stored.reported = said.model_dump(mode="json")
            stored.reported_at = now
            session.flush()
            return self._view(row, stored)

    def desired(self) -> list[DeviceConfig]:
        """The desired configurations of all boxes whose site is known."""
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
            return  # one of the box's own manifest: the box will know
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
        said = stored.reported
        return ConfigView(
            device=row.name,
            revision=stored.revision,
            config=self._desired(stored),
            desired_at=stored.desired_at,
            reported=None if said is None else ReportedConfig.model_validate(said),
            reported_at=stored.reported_at,
        )


def _searched(session: Session, device: str, default: str) -> Searched | None:
    """The collection that a box's probes search; None where it is gone."""
    try:
        scope = collection_ref_of_device(session.connection(), device, default)
    except Unavailable:
        return None
    return Searched(collection=scope.name, model_id=scope.model_id)
