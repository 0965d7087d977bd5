"""The kinds of requests that are measured, and their bodies."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np

from match_server.container import Services
from match_server.schemas.keys import KeyCreate
from models.samples import sample_path
from shared.clock import rfc3339
from tests.benchmarks.server.filling import Vectors
from tests.benchmarks.server.load import NEW_ID

SEARCH = "/v1/collections/default/search"
_PROBES = "/v1/probes"
_LIST = 32


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request."""

    name: str
    path: str
    role: str
    bodies: list[str]
    probes: int = 1  # in one request
    most_clients: int = 1000
    calls: int = 400  # of the application itself, in process


def loads_of(probes: Vectors, model: str) -> list[Load]:
    """Searches by vector and by picture, and probes of a device one by one and in lists."""
    picture = _thumbnail()
    messages = [_message(vector, model, picture) for vector in probes]
    return [
        Load("search", SEARCH, "searcher", vector_bodies(probes, model)),
        Load("picture", SEARCH, "searcher", picture_bodies(), most_clients=32, calls=20),
        Load("probe", _PROBES, "device", [f"[{message}]" for message in messages]),
        Load("probes", _PROBES, "device", [f"[{','.join(messages[:_LIST])}]"], _LIST, 8, 20),
    ]


def key_of(services: Services, role: str) -> str:
    """A new key of this role; that of a device is for the device `bench`."""
    kind: Any = role
    device = "bench" if role == "device" else None
    return services.keys.create(KeyCreate(role=kind, device=device)).key


def vector_bodies(probes: Vectors, model: str) -> list[str]:
    """The body of a search for the ten best candidates of each probe."""
    return [
        json.dumps({"templates": [{"vector": _base64(vector), "model_id": model}], "limit": 10})
        for vector in probes
    ]


def picture_bodies() -> list[str]:
    """Searches by portraits of about a megapixel, as a client would send them."""
    names = ("obama.jpg", "obama2.jpg", "biden.jpg")
    files = [sample_path(name).read_bytes() for name in names]
    return [json.dumps({"image": base64.b64encode(file).decode(), "limit": 10}) for file in files]


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def _message(vector: Vectors, model: str, picture: str) -> str:
    """A probe of a new track, as an edge agent sends it."""
    message = {
        "schema_version": 1,
        "probe_id": NEW_ID,
        "device": "bench",
        "camera": "front",
        "sequence": 1,
        "captured_at": rfc3339(datetime.now(UTC)),
        "track_id": NEW_ID,
        "model_id": model,
        "template": _base64(vector),
        "quality": {"score": 0.8, "factors": []},
        "detection_score": 0.95,
        "box": [10.0, 20.0, 110.0, 140.0],
        "frame_size": [1280, 720],
        "thumbnail": picture,
    }
    return json.dumps(message)


def _thumbnail() -> str:
    """A JPEG of some kilobytes, as large as a face is when it is shown."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC)
    return base64.b64encode(cv2.imencode(".jpg", pixels)[1].tobytes()).decode()
