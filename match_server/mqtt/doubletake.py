"""The topics of Double Take, for automations that were made for it."""

import json
import re
from typing import Any

from match_server.schemas.events import EventView
from shared.clock import rfc3339

GONE_AFTER_S = 30.0
"""After this time the count of a camera goes back to 0."""

_ROOT = "double-take"


def messages(event: EventView) -> list[tuple[str, str]]:
    """Returns topics and payloads for a live event."""
    face = _face(event)
    common: dict[str, Any] = {
        "id": event.id,
        "duration": _seconds(event),
        "timestamp": rfc3339(event.captured_at),
        "attempts": event.probes,
        "camera": event.camera.lower(),
        "zones": [],
    }
    match = event.person is not None
    counts = {"person": 1, "match": int(match), "miss": 0, "unknown": int(not match)}
    publications = [
        (
            f"{_ROOT}/cameras/{event.camera.lower()}",
            {
                **common,
                "matches": [face] if match else [],
                "misses": [],
                "unknowns": [] if match else [face],
                "personCount": 1,
                "counts": counts,
            },
        )
    ]
    if event.person is not None:
        name = topic_part(event.person.name)
        publications.append((f"{_ROOT}/matches/{name}", {**common, "match": face}))
    else:
        unknown = {**common, "unknown": face, "unknowns": [face]}
        publications.append((f"{_ROOT}/matches/unknown", unknown))
    return [(topic, json.dumps(payload, ensure_ascii=False)) for topic, payload in publications]


def count_topic(camera: str) -> str:
    """Returns the topic of the number of persons in front of a camera."""
    return f"{_ROOT}/cameras/{camera.lower()}/person"


def topic_part(name: str) -> str:
    """Returns a name as one level of a topic: letters and digits, words joined by hyphens.

    Double Take keeps Latin letters only, which leaves nothing of other names; here they stay.
    """
    return re.sub(r"[^\w-]|_", "", re.sub(r"\s+", "-", name.strip())) or "_"


def _seconds(event: EventView) -> float:
    """Returns the time from the shown picture to the decision."""
    return round(max(0.0, (event.received_at - event.captured_at).total_seconds()), 2)


def _face(event: EventView) -> dict[str, Any]:
    x1, y1, x2, y2 = event.box
    return {
        "name": "unknown" if event.person is None else event.person.name,
        "confidence": round(100 * max(event.similarity or 0.0, 0.0), 2),  # a similarity, in percent
        "match": event.person is not None,
        "box": {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1},
        "type": "mqtt",
        "duration": _seconds(event),
        "detector": "muster",
        "filename": None,  # pictures stay behind a key: GET /v1/events/{id}/snapshot
        "base64": None,
    }
