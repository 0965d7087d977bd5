"""Home Assistant's MQTT discovery: the sensors of a camera and their topics.

No message that names a person is retained: a broker would send it again after a restart, when the
person has left, and it could not be deleted reliably. Only the descriptions of the sensors are
retained. States are published again every half minute; Home Assistant drops those that are not.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from match_server.schemas.events import CameraPresence

NOBODY = "nobody"
STRANGER = "stranger"
"""Not `unknown`: that is Home Assistant's own state of a sensor without a value."""

REPEAT_S = 30.0
_EXPIRE_S = 95  # three times, and a little

_ROOT = "muster/homeassistant"
AVAILABILITY = f"{_ROOT}/status"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Discovery:
    """The names under which a server describes its cameras to Home Assistant."""

    prefix: str  # of discovery topics, as configured in Home Assistant
    node: str  # of this server: two servers on one broker have different ones
    version: str

    def configs(self, cameras: list[tuple[str, str]]) -> dict[str, str]:
        """Returns topic and payload of each sensor of these cameras (device, camera)."""
        return {
            f"{self.prefix}/{component}/{self.node}/{identifier}/config": json.dumps(config)
            for device, camera in cameras
            for component, identifier, config in self._sensors(device, camera)
        }

    def subscription(self) -> str:
        """Returns the topic filter of all descriptions of this server, also of removed cameras."""
        return f"{self.prefix}/+/{self.node}/+/config"

    def _sensors(self, device: str, camera: str) -> list[tuple[str, str, Json]]:
        described = [
            ("sensor", "person", {"name": "Last person", "icon": "mdi:face-recognition"}),
            (
                "sensor",
                "people",
                {
                    "name": "People present",
                    "icon": "mdi:account-group",
                    "state_class": "measurement",
                    "unit_of_measurement": "people",
                },
            ),
            (
                "binary_sensor",
                "unknown",
                {"name": "Unknown present", "device_class": "occupancy"},
            ),
            (
                "binary_sensor",
                "online",
                {"name": "Camera online", "device_class": "connectivity"},
            ),
        ]
        base = f"{identifier_of(device)}_{identifier_of(camera)}"
        common = {
            "availability_topic": AVAILABILITY,
            "expire_after": _EXPIRE_S,
            "origin": {"name": "Muster", "sw_version": self.version},
            "device": {
                "identifiers": [f"{self.node}_{base}"],
                "name": f"{camera} ({device})",
                "manufacturer": "Muster",
                "model": "Camera",
                "sw_version": self.version,
            },
        }
        sensors = []
        for component, kind, words in described:
            config: Json = {
                **words,
                **common,
                "unique_id": f"{self.node}_{base}_{kind}",
                "state_topic": state_topic(device, camera, kind),
            }
            if kind == "person":
                config["json_attributes_topic"] = state_topic(device, camera, "attributes")
            sensors.append((component, f"{base}_{kind}", config))
        return sensors


def state_topic(device: str, camera: str, kind: str) -> str:
    """Returns the topic of the state of a camera's sensor."""
    return f"{_ROOT}/{device}/{camera}/{kind}"


def counts(seen: CameraPresence) -> Mapping[str, str]:
    """Returns topic and state of the sensors that count people in front of a camera."""
    camera = seen.device, seen.camera
    return {
        state_topic(*camera, "people"): str(seen.in_view),
        state_topic(*camera, "unknown"): "ON" if seen.unknown else "OFF",
        state_topic(*camera, "online"): "ON" if seen.online else "OFF",
    }


def identifier_of(name: str) -> str:
    """Returns a name as Home Assistant's topics allow it; different names stay different."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    if plain == name:
        return name
    return f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
