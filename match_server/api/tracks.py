"""Tracks that begin and end, and who is in view by that."""

from flask import Request, g, request
from pydantic import TypeAdapter, ValidationError

from match_server.api.parsing import require_json
from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.events import Presences, TracksTaken
from match_server.schemas.validation import malformed
from match_server.services.auth.keys import Permission, Principal
from match_server.services.presence import Presence
from shared.errors import Forbidden, MalformedInput
from shared.wire.messages import TrackMessage

MAX_TRACKS = 256

_MESSAGES: TypeAdapter[list[TrackMessage]] = TypeAdapter(list[TrackMessage])


def track_endpoints(services: Services) -> list[Endpoint]:
    """What boxes say of tracks, and what follows of it."""
    presence = services.presence
    return [
        Endpoint(
            "POST", "/v1/tracks", "events", "Say that tracks began or ended: one, or a list",
            handle=lambda: _take(presence, request, g.principal), permission=Permission.PROBES,
            body=TrackMessage, raw_body=True, at_once=MAX_TRACKS, answer=TracksTaken,
            errors=(400, 413, 415, 503),
        ),
        Endpoint(
            "GET", "/v1/presence", "events", "Who is before the cameras now",
            handle=presence.now, permission=Permission.EVENTS, answer=Presences,
        ),
    ]  # fmt: skip


def _take(presence: Presence, incoming: Request, principal: Principal) -> TracksTaken:
    require_json(incoming)
    data = incoming.get_data().strip()
    try:
        listed = data if data[:1] == b"[" else b"[" + data + b"]"
        messages = _MESSAGES.validate_json(listed, strict=True)
    except ValidationError as error:
        raise malformed(error) from None
    if not 1 <= len(messages) <= MAX_TRACKS:
        raise MalformedInput(f"send 1 to {MAX_TRACKS} track messages, not {len(messages)}")
    for message in messages:
        if principal.device not in (None, message.device):
            raise Forbidden(
                f"this key speaks for device {principal.device!r}, not for {message.device!r}"
            )
    return presence.note(messages)
