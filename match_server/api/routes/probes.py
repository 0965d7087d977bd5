"""Probes, as cameras send them."""

from flask import request
from pydantic import TypeAdapter, ValidationError

from match_server.api.auth import require_device
from match_server.api.parsing import require_json
from match_server.api.routing import RawBody, Routes
from match_server.container import Services
from match_server.schemas.events import ProbeResult, ProbeResults, probe_id_of
from match_server.schemas.validation import malformed
from match_server.services.auth.keys import Permission
from shared.errors import MalformedInput
from shared.wire.messages import ProbeMessage

MAX_PROBES = 256

_JSON_ITEMS: TypeAdapter[list[object]] = TypeAdapter(list[object])
_JSON_ITEM: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


def probe_routes(services: Services) -> Routes:
    routes = Routes("events")

    @routes.add(
        "POST",
        "/v1/probes",
        Permission.PROBES,
        raw_body=RawBody(ProbeMessage, max_items=MAX_PROBES),
    )
    def send_probes() -> ProbeResults:
        """Send one probe, or a list of them."""
        require_json(request)
        # An invalid probe gets a result of its own. All are stored by one transaction.
        probes = [_probe(item) for item in _items(request.get_data())]
        valid = [probe for probe in probes if isinstance(probe, ProbeMessage)]
        results = iter(services.probes.accept_all(valid))
        return ProbeResults(
            probes=[next(results) if isinstance(probe, ProbeMessage) else probe for probe in probes]
        )

    return routes


def _items(data: bytes) -> list[object]:
    try:
        if data.lstrip()[:1] != b"[":
            return [_JSON_ITEM.validate_json(data)]
        items = _JSON_ITEMS.validate_json(data)
    except ValidationError:
        raise MalformedInput("the body is one probe message or a list of them, as JSON") from None
    if not 1 <= len(items) <= MAX_PROBES:
        raise MalformedInput(f"send 1 to {MAX_PROBES} probes at a time, not {len(items)}")
    return items


def _probe(item: object) -> ProbeMessage | ProbeResult:
    """The probe, or its refusal. Raises Forbidden for a probe of another device."""
    try:
        message = ProbeMessage.model_validate(item)
    except ValidationError as error:
        return ProbeResult.refused(probe_id_of(item), malformed(error))
    require_device(message.device)
    return message
