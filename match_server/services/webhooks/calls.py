"""One call of a webhook: signed, with a timeout, without redirects; and its outcome."""

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

_TRY_LATER = frozenset({408, 425, 429})  # client errors that may pass
_GONE = 410


class Outcome(Enum):
    """The outcome of a call, which decides what happens with the event."""

    TAKEN = auto()
    LATER = auto()  # the receiver is away, slow or broken: try again
    NEVER = auto()  # the receiver refuses this event
    GONE = auto()  # the receiver refuses all events, for ever


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a call and its reason."""

    outcome: Outcome
    reason: str  # for people; empty when it was taken


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls webhooks. `private`: whether private addresses and this machine may be called."""

    timeout_s: float
    private: bool
    version: str  # of the server

    def call(self, url: str, secret: bytes, notification: EventNotice, now: datetime) -> Result:
        """Send the present state of one event."""
        event = notification.event
        body = json.dumps(
            {"type": "event", "timestamp": rfc3339(now), "data": event.model_dump(mode="json")},
            ensure_ascii=False,
        ).encode()
        # The same for each attempt with one state of one event, so receivers can detect duplicates.
        message_id = f"{event.id}.{event.revision}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Muster/{self.version}",
            **signed_headers(secret, message_id, now, body),
        }
        try:
            return _result(self._post(url, headers, body))
        except Refused as error:
            return Result(Outcome.NEVER, str(error))
        except ValueError as error:  # stored by a version with fewer checks
            return Result(Outcome.NEVER, f"the address {error}")
        except Unavailable as error:
            return Result(Outcome.LATER, error.message)
        except (OSError, HTTPException) as error:
            return Result(Outcome.LATER, _plain(error))

    def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status of the response. Its body is not read.

        The call goes to the address that was checked, not to the name, and takes at most
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
    """Ends a connection at a monotonic time. Yields an event that is set when that happened."""
    cut = threading.Event()
    end = connected.dup()  # TLS takes over the other descriptor

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


def _result(status: int) -> Result:
    if 200 <= status < 300:
        return Result(Outcome.TAKEN, "")
    if status == _GONE:
        return Result(Outcome.GONE, "the receiver returned 410: it is gone")
    if 300 <= status < 400:
        return Result(Outcome.NEVER, f"the receiver returned {status}; redirects are not followed")
    if status < 500 and status not in _TRY_LATER:
        return Result(Outcome.NEVER, f"the receiver returned {status}")
    return Result(Outcome.LATER, f"the receiver returned {status}")


def _plain(error: OSError | HTTPException) -> str:
    """What failed, without the URL, which may hold a secret."""
    if isinstance(error, TimeoutError):
        return "the receiver did not answer in time"
    if isinstance(error, ssl.SSLError):
        return "the certificate of the receiver is not trusted, or it does not use TLS"
    return f"the receiver cannot be reached ({type(error).__name__})"
