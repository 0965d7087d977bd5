"""One call of a webhook: signed, bounded in time, never redirected; what came of it."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

import urllib3
from urllib3.exceptions import HTTPError

from match_server.telling.addresses import Refused, addresses_of, port_of, web_address
from match_server.telling.signing import signed_headers
from match_server.telling.updates import Told
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

    def call(self, url: str, secret: bytes, told: Told, now: datetime) -> Answer:
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
        except Unavailable as error:
            return Answer(Outcome.LATER, error.message)
        except HTTPError as error:
            return Answer(Outcome.LATER, _plain(error))

    def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status that the receiver answers. Its body is not read."""
        parts = web_address(url)
        address = addresses_of(parts, private=self.private)[0]
        options = {"timeout": urllib3.Timeout(total=self.timeout_s), "maxsize": 1}
        pool: urllib3.HTTPConnectionPool
        if parts.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(
                address,
                port_of(parts),
                server_hostname=parts.hostname,
                assert_hostname=parts.hostname,
                cert_reqs="CERT_REQUIRED",
                **options,  # type: ignore[arg-type]
            )
        else:
            pool = urllib3.HTTPConnectionPool(address, port_of(parts), **options)  # type: ignore[arg-type]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with pool:
            response = pool.urlopen(
                "POST",
                path,
                body=body,
                headers={**headers, "Host": parts.netloc},
                retries=False,
                redirect=False,
                preload_content=False,
            )
            response.close()
            return response.status


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


def _plain(error: HTTPError) -> str:
    """What failed, without the address: that may hold a secret of its own."""
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "the receiver did not answer in time"
    if isinstance(error, urllib3.exceptions.SSLError):
        return "the receiver's certificate is not trusted here, or it does not speak TLS"
    return f"the receiver cannot be reached ({type(error).__name__})"
