"""Presence: tracks begin and end, and so people come into view and leave it."""

from flask import request
from pydantic import TypeAdapter, ValidationError

from match_server.api.auth import require_device
from match_server.api.parsing import require_json
from match_server.api.routing import RawBody, Routes
from match_server.container import Services
from match_server.schemas.events import Presences, TracksTaken
from match_server.schemas.validation import malformed
from match_server.services.auth.keys import Permission
from shared.errors import MalformedInput
from shared.wire.messages import TrackMessage

MAX_TRACKS = 256

_MESSAGES: TypeAdapter[list[TrackMessage]] = TypeAdapter(list[TrackMessage])


def presence_routes(services: Services) -> Routes:
    routes = Routes("events")

    @routes.add(
        "POST",
        "/v1/tracks",
        Permission.PROBES,
        raw_body=RawBody(TrackMessage, max_items=MAX_TRACKS),
    )
    def send_tracks() -> TracksTaken:
        """Report that tracks began or ended: one message, or a list of them."""
        require_json(request)
        messages = _messages(request.get_data())
        for message in messages:
            require_device(message.device)
        return services.presence.note(messages)

    @routes.add("GET", "/v1/presence", Permission.EVENTS)
    def get_presence() -> Presences:
        """List who is before the cameras now."""
        return services.presence.now()

    return routes


def _messages(body: bytes) -> list[TrackMessage]:
    data = body.strip()
    try:
        messages = _MESSAGES.validate_json(
            data if data[:1] == b"[" else b"[" + data + b"]", strict=True
        )
    except ValidationError as error:
        raise malformed(error) from None
    if not 1 <= len(messages) <= MAX_TRACKS:
        raise MalformedInput(f"send 1 to {MAX_TRACKS} track messages, not {len(messages)}")
    return messages
