"""One call of a webhook: signed, bounded in time, never redirected; what came of it."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException

from match_server.schemas.webhooks import web_address
from match_server.services.sightings.event_feed import EventNotice
from match_server.services.webhooks.addresses import Refused, addresses_of, port_of
from match_server.services.webhooks.signing import signed_headers
from shared.clock import rfc3339
from shared.errors import Unavailable

_TRY_LATER = frozenset({408, 425, 429})  # the client's fault by number only
_GONE = 410


class Outcome(Enum):
    """What is to become of an event after a call."""

    TAKEN = auto()
    LATER = auto()  # the receiver is away, slow or broken: try again
    NEVER = auto()  # the receiver answered that it does not want this
    GONE = auto()  # the receiver does not want anything, ever


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    reason: str  # for people; empty when it was taken


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls addresses. `private`: whether private addresses and this machine may be called."""

    timeout_s: float
    private: bool
    version: str  # of the server

    def call(self, url: str, secret: bytes, told: EventNotice, now: datetime) -> Answer:
        """Send one event as it is now."""
        event = told.event
        body = json.dumps(
            {"type": "event", "timestamp": rfc3339(now), "data": event.model_dump(mode="json")},
            ensure_ascii=False,
        ).encode()
        # The same for every try of one state of one event: receivers can leave doubles aside.
        message_id = f"{event.id}.{event.revision}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Muster/{self.version}",
            **signed_headers(secret, message_id, now, body),
        }
        try:
            return _judged(self._post(url, headers, body))
        except Refused as error:
            return Answer(Outcome.NEVER, str(error))
        except ValueError as error:  # kept by a version that let more through
            return Answer(Outcome.NEVER, f"the address {error}")
        except Unavailable as error:
            return Answer(Outcome.LATER, error.message)
        except (OSError, HTTPException) as error:
            return Answer(Outcome.LATER, _plain(error))

    def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status that the receiver answers. Its body is not read.

        It is called at the address that was looked at, not at its name, and all of it takes at most
        `timeout_s`, however slowly the receiver sends. Raises OSError or HTTPException.
        """
        parts = web_address(url)
        until_s = time.monotonic() + self.timeout_s
        address = addresses_of(parts, private=self.private)[0]
        left_s = until_s - time.monotonic()
        if left_s <= 0:  # the name server was slow
            raise TimeoutError
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        raw = socket.create_connection((address, port_of(parts)), left_s)
        with _cut_after(raw, until_s) as cut:
            connection = HTTPConnection(address, port_of(parts))
            try:
                if parts.scheme == "https":
                    raw = ssl.create_default_context().wrap_socket(
                        raw, server_hostname=parts.hostname
                    )
                connection.sock = raw
                connection.request("POST", path, body, {**headers, "Host": parts.netloc})
                status = connection.getresponse().status
            except (OSError, HTTPException):
                if not cut.is_set():
                    raise
            else:
                if not cut.is_set():
                    return status
            finally:
                connection.close()
                raw.close()
        raise TimeoutError


@contextmanager
def _cut_after(connected: socket.socket, until_s: float) -> Iterator[threading.Event]:
    """Let a connection end at a moment (monotonic), whatever its peer sends; set when it did."""
    cut = threading.Event()
    end = connected.dup()  # TLS takes the other over

    def shut() -> None:
        cut.set()
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, until_s - time.monotonic()), shut)
    timer.start()
    try:
        yield cut
    finally:
        timer.cancel()
        timer.join()
        end.close()


def _judged(status: int) -> Answer:
    if 200 <= status < 300:
        return Answer(Outcome.TAKEN, "")
    if status == _GONE:
        return Answer(Outcome.GONE, "the receiver answered 410: it is gone")
    if 300 <= status < 400:
        return Answer(Outcome.NEVER, f"the receiver answered {status}; redirects are not followed")
    if status < 500 and status not in _TRY_LATER:
        return Answer(Outcome.NEVER, f"the receiver answered {status}")
    return Answer(Outcome.LATER, f"the receiver answered {status}")


def _plain(error: OSError | HTTPException) -> str:
    """What failed, without the address: that may hold a secret of its own."""
    if isinstance(error, TimeoutError):
        return "the receiver did not answer in time"
    if isinstance(error, ssl.SSLError):
        return "the receiver's certificate is not trusted here, or it does not speak TLS"
    return f"the receiver cannot be reached ({type(error).__name__})"
