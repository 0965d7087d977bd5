"""How the box and the server talk about the box: over HTTP, or through the broker."""

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
_MOST_BYTES: Final = 4 * 1024 * 1024
_UNANSWERED: Final = 8

Desired = Callable[[DesiredConfig], None]
_Answer = TypeVar("_Answer", bound=BaseModel)


class Link(Protocol):
    """A way to tell the server how the box is and to hear what it is to run with.

    Calls raise Unavailable where it leads nowhere now, Unauthenticated or Forbidden where the other
    side turns the box away. Nothing is stored up: what was not heard
    is told anew next time.
    """

    def open(self, desired: Desired) -> None:
        """`desired` is called, from any thread, with what the box is to run with."""
        ...

    def send_health(self, message: HealthMessage) -> None: ...

    def send_report(self, report: ReportedConfig) -> None: ...


class BrokerLink:
    """Through the broker: health at QoS 0, configurations as retained messages.

    Who owns the broker can keep a message of the server and say it again later. So a configuration
    older than one that the box has decided on waits until an answer to its own health confirms it.
    """

    def __init__(self, road: CarriesMessages, offset: ClockOffset, revision: int = 0) -> None:
        """`revision` is the newest that the box has decided on."""
        self._road = road
        self._offset = offset
        self._revision = revision
        self._older: DesiredConfig | None = None
        self._lock = threading.Lock()
        self._sent: list[tuple[HealthMessage, Mark]] = []  # not answered yet, newest last
        self._desired: Desired = lambda _: None
        road.listen("health/answer", self._answered)
        road.listen("config/desired", self._wanted)

    def open(self, desired: Desired) -> None:
        self._desired = desired

    def send_health(self, message: HealthMessage) -> None:
        with self._lock:
            self._sent = [*self._sent[1 - _UNANSWERED :], (message, self._offset.mark())]
        self._road.send_message("health", message.model_dump_json())

    def send_report(self, report: ReportedConfig) -> None:
        self._road.send_message("config/reported", report.model_dump_json(), retain=True)

    # Called in the client's thread.

    def _answered(self, payload: bytes) -> None:
        answer = HealthAnswer.model_validate_json(payload)
        with self._lock:
            mark = next((mark for one, mark in self._sent if one.at == answer.answers), None)
        if mark is None:
            return
        self._offset.answered(mark, answer.at)
        if self._older is not None and self._older.revision == answer.config_revision:
            self._hand_on(self._older)  # the server was restored from a backup

    def _wanted(self, payload: bytes) -> None:
        if not payload:  # the server has forgotten the box, which goes on as it is
            return
        desired = DesiredConfig.model_validate_json(payload)
        if desired.revision >= self._revision:
            self._hand_on(desired)
        else:
            self._older = desired

    def _hand_on(self, desired: DesiredConfig) -> None:
        self._older, self._revision = None, desired.revision
        self._desired(desired)


class _Config(BaseModel):
    """GET …/config, of which more is said than the box needs."""

    model_config = ConfigDict(extra="ignore")

    revision: int
    config: dict[str, Any]


class HttpLink:
    """Over HTTP: health is answered with the wanted revision, which is fetched when it is new."""

    def __init__(self, session: "ServerSession", device: str, offset: ClockOffset) -> None:
        self._session = session
        self._path = f"/v1/devices/{device}"
        self._offset = offset
        self._desired: Desired = lambda _: None
        self._revision: int | None = None  # that was handed on last

    def open(self, desired: Desired) -> None:
        self._desired = desired

    def send_health(self, message: HealthMessage) -> None:
        mark = self._offset.mark()
        answer = self._call("POST", "/health", HealthAnswer, message)
        self._offset.answered(mark, answer.at)
        if answer.config_revision != self._revision:
            wanted = self._call("GET", "/config", _Config)
            self._revision = wanted.revision
            self._desired(DesiredConfig(revision=wanted.revision, config=wanted.config))

    def send_report(self, report: ReportedConfig) -> None:
        self._call("PUT", "/config/reported", _Config, report)

    def _call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None = None
    ) -> _Answer:
        data = None if body is None else body.model_dump_json(exclude_none=True).encode()
        said = self._session.call(method, self._path + path, body=data, max_bytes=_MOST_BYTES)
        what = f"{self._session.base}{self._path}{path}"
        if not said.ok:
            raise Unavailable(f"{what} answered {said.status}")
        try:
            return answer.model_validate_json(said.body)
        except ValidationError as error:
            raise Unavailable(f"{what} gave no answer that is known here") from error


def links_of(
    settings: AgentSettings, transport: object, offset: ClockOffset, revision: int
) -> list[Link]:
    """The ways that the settings know, the better first. `revision` as in `BrokerLink`."""
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
