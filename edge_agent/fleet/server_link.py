"""Messages between device and server about the device: over HTTP, or through the broker."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.config.settings import AgentSettings
from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.transport import CarriesMessages
from edge_agent.fleet.clock_offset import ClockOffset, Mark
from shared.errors import Forbidden, Unauthenticated, Unavailable
from shared.wire.device import DesiredConfig, HealthAnswer, HealthMessage, ReportedConfig

if TYPE_CHECKING:
    from edge_agent.delivery.http_session import ServerSession

_DEFAULT_TIMEOUTS: Final = Timeouts(connect_s=5.0, silence_s=10.0, request_s=15.0)
_MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_UNANSWERED: Final = 8

Desired = Callable[[DesiredConfig], None]
_Answer = TypeVar("_Answer", bound=BaseModel)


class Link(Protocol):
    """Sends health and reports to the server, and receives configurations.

    Calls raise Unavailable while the server cannot be reached, Unauthenticated or Forbidden where
    it refuses the device. Nothing is queued: a message that failed is replaced by the next.
    """

    def open(self, desired: Desired) -> None:
        """Registers a handler for configurations; any thread may call it."""
        ...

    def send_health(self, message: HealthMessage) -> None: ...

    def send_report(self, report: ReportedConfig) -> None: ...


class BrokerLink:
    """Through the broker: health at QoS 0, configurations as retained messages.

    The operator of the broker could replay an old message of the server. So a configuration that is
    older than the last decision waits until a response to the device's own health confirms it.
    """

    def __init__(self, transport: CarriesMessages, offset: ClockOffset, revision: int = 0) -> None:
        """`revision` is the newest on which the device has decided."""
        self._transport = transport
        self._offset = offset
        self._revision = revision
        self._older: DesiredConfig | None = None
        self._lock = threading.Lock()
        self._sent: list[tuple[HealthMessage, Mark]] = []  # without a response, newest last
        self._desired: Desired = lambda _: None
        transport.listen("health/answer", self._on_answer)
        transport.listen("config/desired", self._on_desired)

    def open(self, desired: Desired) -> None:
        self._desired = desired

    def send_health(self, message: HealthMessage) -> None:
        with self._lock:
            self._sent = [*self._sent[1 - _MAX_UNANSWERED :], (message, self._offset.mark())]
        self._transport.send_message("health", message.model_dump_json())

    def send_report(self, report: ReportedConfig) -> None:
        self._transport.send_message("config/reported", report.model_dump_json(), retain=True)

    # Called in the client's thread.

    def _on_answer(self, payload: bytes) -> None:
        answer = HealthAnswer.model_validate_json(payload)
        with self._lock:
            mark = next((mark for sent, mark in self._sent if sent.at == answer.answers), None)
        if mark is None:
            return
        self._offset.answered(mark, answer.at)
        if self._older is not None and self._older.revision == answer.config_revision:
            self._forward(self._older)  # the server was restored from a backup

    def _on_desired(self, payload: bytes) -> None:
        if not payload:  # the server deleted the device: it goes on with its configuration
            return
        desired = DesiredConfig.model_validate_json(payload)
        if desired.revision >= self._revision:
            self._forward(desired)
        else:
            self._older = desired

    def _forward(self, desired: DesiredConfig) -> None:
        self._older, self._revision = None, desired.revision
        self._desired(desired)


class _Config(BaseModel):
    """The part of GET …/config that the device needs."""

    model_config = ConfigDict(extra="ignore")

    revision: int
    config: dict[str, Any]


class HttpLink:
    """Over HTTP: a response to health names the desired revision; a new one is fetched."""

    def __init__(self, session: "ServerSession", device: str, offset: ClockOffset) -> None:
        self._session = session
        self._path = f"/v1/devices/{device}"
        self._offset = offset
        self._desired: Desired = lambda _: None
        self._revision: int | None = None  # that was forwarded last

    def open(self, desired: Desired) -> None:
        self._desired = desired

    def send_health(self, message: HealthMessage) -> None:
        mark = self._offset.mark()
        answer = self._call("POST", "/health", HealthAnswer, message)
        self._offset.answered(mark, answer.at)
        if answer.config_revision != self._revision:
            desired = self._call("GET", "/config", _Config)
            self._revision = desired.revision
            self._desired(DesiredConfig(revision=desired.revision, config=desired.config))

    def send_report(self, report: ReportedConfig) -> None:
        self._call("PUT", "/config/reported", _Config, report)

    def _call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None = None
    ) -> _Answer:
        data = None if body is None else body.model_dump_json(exclude_none=True).encode()
        response = self._session.call(method, self._path + path, body=data, max_bytes=_MAX_BYTES)
        url = f"{self._session.base}{self._path}{path}"
        if not response.ok:
            raise Unavailable(f"{url} answered {response.status}")
        try:
            return answer.model_validate_json(response.body)
        except ValidationError as error:
            raise Unavailable(f"{url} sent an invalid response") from error


def links_of(
    settings: AgentSettings, transport: object, offset: ClockOffset, revision: int
) -> list[Link]:
    """Returns the links of the settings, the preferred first. `revision` as in `BrokerLink`."""
    links: list[Link] = []
    if settings.broker is not None and isinstance(transport, CarriesMessages):
        links.append(BrokerLink(transport, offset, revision))
    if settings.server is not None:
        from edge_agent.delivery.http_session import ServerSession

        server = settings.server
        session = ServerSession(
            server.url, server.key(), ca_file=server.ca_file, timeouts=_DEFAULT_TIMEOUTS
        )
        links.append(HttpLink(session, settings.device, offset))
    return links


def send_first(links: Sequence[Link], send: Callable[[Link], None]) -> bool:
    """Sends over the first link that works; returns False where none does."""
    for link in links:
        try:
            send(link)
        except (Unavailable, Unauthenticated, Forbidden):
            continue
        return True
    return False
