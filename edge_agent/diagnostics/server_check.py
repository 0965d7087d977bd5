"""Checks of `edge-agent doctor`: the server, the key, the models of the collection, the broker."""

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from edge_agent.config.settings import AgentSettings, BrokerSettings, ServerSettings
from models.packs.store import installed
from shared.checks import Check
from shared.clock import SystemClock
from shared.errors import MusterError, Unauthenticated, Unavailable
from shared.unreachable import why_unreachable
from shared.wire.topics import DeviceTopics

if TYPE_CHECKING:
    import requests

_TIMEOUT_S: Final = 5.0
_TRUST_SERVER: Final = (
    "set server.ca_file to the authority that signed it, or enroll again by the QR picture"
)
_TRUST_BROKER: Final = "set broker.ca_file to the authority that signed it"
_NO_PROBE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_DATE_STEP_S: Final = 1.0  # the header has whole seconds


def check_server(settings: AgentSettings, server: ServerSettings) -> Iterator[Check]:
    """Checks the server's health, compares the clocks, then tries the key with an empty request."""
    import requests

    base = server.url.rstrip("/")
    with requests.Session() as session:
        client = _Client(session, base, True if server.ca_file is None else str(server.ca_file))
        try:
            health = client.get("/readyz")
        except (requests.RequestException, OSError) as error:
            why = why_unreachable(error, trust=_TRUST_SERVER, plain="http://")
            message = f"{base} cannot be reached: {why.cause}"
            yield Check("server", "bad", message, why.advice)
            return
        yield from _check_clock(health.headers.get("Date"), settings.fleet.clock_off_s)
        if health.status_code == HTTPStatus.NOT_FOUND:
            advice = "set server.url to where match-server itself answers"
            yield Check("server", "bad", f"{base} is another server", advice)
            return
        if health.ok:
            yield Check("server", "well", f"{base} is ready")
        else:
            advice = "`match-server doctor` on it says why"
            yield Check("server", "bad", f"{base} answers {health.status_code}", advice)
        try:
            yield from _check_key(settings, server, client)
        except (requests.RequestException, OSError) as error:
            why = why_unreachable(error, trust=_TRUST_SERVER, plain="http://")
            yield Check("key", "bad", f"could not be tried: {why.cause}", why.advice)


@dataclass(frozen=True, slots=True)
class _Client:
    """Sends requests to one server."""

    session: "requests.Session"
    base: str
    trust: bool | str

    def get(self, path: str, key: str | None = None) -> "requests.Response":
        return self._call("GET", path, key)

    def post(self, path: str, key: str, body: object) -> "requests.Response":
        return self._call("POST", path, key, body)

    def _call(
        self, method: str, path: str, key: str | None, body: object = None
    ) -> "requests.Response":
        return self.session.request(
            method,
            f"{self.base}{path}",
            json=body,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT_S,
            verify=self.trust,
            allow_redirects=False,
        )


def _check_key(settings: AgentSettings, server: ServerSettings, client: _Client) -> Iterator[Check]:
    """Checks that the key may send probes, and that it is the key of this device."""
    enroll = (
        f"match-server device code --device {settings.device}, and then on this box: "
        f"edge-agent enroll-device --server {client.base} CODE"
    )
    try:
        key = server.key()
    except MusterError as error:
        yield Check("key", "bad", error.message, enroll)
        return
    empty = client.post("/v1/probes", key, [])
    if empty.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        reason = "does not know it, or it was revoked"
        if empty.status_code == HTTPStatus.FORBIDDEN:
            reason = "knows it, but it may not send probes"
        yield Check("key", "bad", f"the server {reason} ({empty.status_code})", enroll)
        return
    # An empty list of probes is an invalid request.
    if not (empty.ok or empty.status_code in _NO_PROBE):
        advice = "try again; `match-server doctor` on the server says more"
        yield Check("key", "doubtful", f"the server answers {empty.status_code}", advice)
        return
    # The key may still belong to another device. Only its own device may read this path.
    own = client.get(f"/v1/devices/{settings.device}/config", key)
    if own.status_code == HTTPStatus.FORBIDDEN:
        advice = (
            f"set device to the name that the key is for, or give {settings.device!r} a key of "
            f"its own: match-server device code --device {settings.device}"
        )
        message = f"it belongs to another device than {settings.device!r}"
        yield Check("key", "bad", message, advice)
    elif own.status_code == HTTPStatus.NOT_FOUND:
        message = "the server accepts it; it has not heard of this box before"
        yield Check("key", "well", message)
    else:
        yield Check("key", "well", f"the server accepts it, for {settings.device!r}")
        yield from _check_model(own, settings)


def _check_model(response: "requests.Response", settings: AgentSettings) -> Iterator[Check]:
    """Compares the models of device and collection; no result where the server names none."""
    try:
        searched = response.json()["searches"]
        collection, required = str(searched["collection"]), str(searched["model_id"])
    except (ValueError, KeyError, TypeError):
        return
    pack = installed(settings.models.pack)
    own = None if pack is None else pack.pack.model_id
    if own is not None and own != required:
        message = f"this box makes templates of {own}, {collection!r} holds {required}"
        advice = (
            "set models.pack to a pack of that model, or give the box another collection; "
            "until then each probe is refused"
        )
        yield Check("models", "bad", message, advice)


def _check_clock(date: str | None, off_s: float) -> Iterator[Check]:
    """Compares the device's clock with the server's Date header (RFC 9110, 6.6.1)."""
    try:
        server_time = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead_s = (SystemClock().now() - server_time).total_seconds()
    if abs(ahead_s) > off_s + _DATE_STEP_S:
        message = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
        yield Check("clock", "bad", message, "set both by NTP: sudo timedatectl set-ntp true")


def check_broker(settings: AgentSettings, broker: BrokerSettings) -> Check:
    from edge_agent.delivery.mqtt import login_of, try_broker

    try:
        topics = DeviceTopics(settings.site, settings.device)
        try_broker(broker.url, topics, login_of(broker), _TIMEOUT_S)
    except Unauthenticated as error:
        advice = "are broker.username and broker.password_file (or its certificate) right?"
        return Check("broker", "bad", error.message, advice)
    except Unavailable as error:
        if error.__cause__ is None or isinstance(error.__cause__, queue.Empty):
            advice = "is it an MQTT 5 broker; is it mqtts:// there, and not mqtt://?"
            return Check("broker", "bad", error.message, advice)
        why = why_unreachable(error.__cause__, trust=_TRUST_BROKER, plain="mqtt://")
        message = f"{broker.url} cannot be reached: {why.cause}"
        return Check("broker", "bad", message, why.advice)
    except MusterError as error:
        return Check("broker", "bad", error.message)
    return Check("broker", "well", f"{broker.url} lets the box in")
