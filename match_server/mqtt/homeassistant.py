"""Home Assistant's MQTT discovery: what it is told of a camera, and under which topics.

Nothing that names a person is retained: a broker would give it out again after a restart, when
nobody is there, and could not be made to forget it. What is retained are the descriptions of the
sensors alone. States are said again every half minute, and Home Assistant drops those that are not.
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
"""Not `unknown`: that is Home Assistant's own word for a sensor that has not said anything yet."""

REPEAT_S = 30.0
_EXPIRE_S = 95  # three times, and a little

_ROOT = "muster/homeassistant"
AVAILABILITY = f"{_ROOT}/status"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Discovery:
    """The names under which one server tells Home Assistant of its cameras."""

    prefix: str  # of discovery topics, as Home Assistant is set up
    node: str  # of this server: two servers on one broker have different ones
    version: str

    def configs(self, cameras: list[tuple[str, str]]) -> dict[str, str]:
        """Topic and payload of every sensor of these cameras (device, camera); to be retained."""
        return {
            f"{self.prefix}/{component}/{self.node}/{identifier}/config": json.dumps(config)
            for device, camera in cameras
            for component, identifier, config in self._sensors(device, camera)
        }

    def subscription(self) -> str:
        """Where all descriptions stand that this server ever gave, also of cameras now gone."""
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
    """Where the state of a camera's sensor is said."""
    return f"{_ROOT}/{device}/{camera}/{kind}"


def counts(seen: CameraPresence) -> Mapping[str, str]:
    """Topic and state of what is counted before a camera."""
    place = seen.device, seen.camera
    return {
        state_topic(*place, "people"): str(seen.in_view),
        state_topic(*place, "unknown"): "ON" if seen.unknown else "OFF",
        state_topic(*place, "online"): "ON" if seen.online else "OFF",
    }


def identifier_of(name: str) -> str:
    """A name as Home Assistant's topics allow it; different names stay different."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    if plain == name:
        return name
    return f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
