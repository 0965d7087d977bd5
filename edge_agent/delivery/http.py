"""Probes over HTTP: POST /v1/probes, in batches, in order."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.batching import BatchWindow
from edge_agent.delivery.http_session import ServerResponse, ServerSession, TimedOut
from edge_agent.outbox.records import StoredProbe
from shared.addresses import redacted
from shared.clock import Clock, SystemClock
from shared.errors import ConfigurationError, Forbidden, MusterError, Unauthenticated, Unavailable
from shared.wire.messages import ProbeReceipt, TrackMessage

_MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
_INVALID_REQUEST: Final = frozenset({400, 409, 413, 415, 422})
"""Status codes for a request that is invalid, also when it is repeated."""
_UNKNOWN_PATH: Final = frozenset({404, 405})
"""Status codes of a server that is older than the API call."""


class _Receipt(BaseModel):
    """One entry of the response. The device does not use the decision in it."""

    model_config = ConfigDict(extra="ignore")

    probe_id: str
    status: str
    code: str | None = None
    message: str | None = None


class _Receipts(BaseModel):
    model_config = ConfigDict(extra="ignore")

    probes: list[_Receipt] = Field(max_length=1000)


class HttpTransport:
    """Delivers over HTTP(S). One request at a time, over one kept connection.

    `url` is the server's base address; `ca_file` a private certificate authority. Redirects are not
    followed: a key is for one server. `close` ends a running request.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        ca_file: Path | None = None,
        timeouts: Timeouts | None = None,
        clock: Clock | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"the server's address is http://… or https://…, not {redacted(url)!r}"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("a key does not belong into the server's address")
        self._session = ServerSession(url, key, ca_file=ca_file, timeouts=timeouts)
        self._window = BatchWindow(clock or SystemClock())

    @property
    def name(self) -> str:
        return self._session.name

    def open(self, wake: Callable[[], None]) -> None:
        """Does nothing: the first request connects."""

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        sent = self._window.choose(batch)
        try:
            receipts = self._send(sent)
        except TimedOut:
            self._window.timed_out(sent)
            raise
        except _ServerFailed:
            self._window.server_failed(sent)
            raise
        self._window.succeeded()
        return receipts

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        body = "[" + ",".join(message.model_dump_json() for message in messages) + "]"
        response = self._post("/v1/tracks", body.encode())
        if not response.ok and response.status not in _INVALID_REQUEST | _UNKNOWN_PATH:
            raise self._as_error(response)

    def close(self, timeout_s: float) -> None:
        self._session.close()

    def _send(self, probes: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        response = self._post("/v1/probes", b"[" + b",".join(one.body for one in probes) + b"]")
        if response.ok:
            return self._receipts(response, probes)
        if response.status not in _INVALID_REQUEST:
            raise self._as_error(response)
        if len(probes) > 1:
            return self._send_each(probes)
        refusal = response.refusal
        return [
            ProbeReceipt(
                probe_id=probes[0].probe_id,
                status="refused",
                code=refusal.code,
                message=refusal.message or f"HTTP {response.status}",
            )
        ]

    def _send_each(self, probes: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        """Sends each probe alone, because one of them made the request invalid."""
        receipts: list[ProbeReceipt] = []
        for probe in probes:
            try:
                receipts += self._send([probe])
            except MusterError:
                if not receipts:
                    raise
                break  # the receipts so far count; the rest is sent again later
        return receipts

    def _post(self, path: str, body: bytes) -> ServerResponse:
        return self._session.call("POST", path, body=body, max_bytes=_MAX_RESPONSE_BYTES)

    def _receipts(
        self, response: ServerResponse, sent: Sequence[StoredProbe]
    ) -> list[ProbeReceipt]:
        """Returns the receipts for the sent probes; others in the response are ignored."""
        sent_ids = {probe.probe_id for probe in sent}
        receipts: list[ProbeReceipt] = []
        try:
            entries = _Receipts.model_validate_json(response.body).probes
        except ValidationError as error:
            raise Unavailable(
                f"the {self.name} answered {response.status} without receipts:"
                " is that a match-server?"
            ) from error
        for entry in entries:
            if entry.probe_id in sent_ids:
                with suppress(ValidationError):  # an unknown status is no receipt
                    receipts.append(ProbeReceipt.model_validate(entry.model_dump()))
        if not receipts:
            raise Unavailable(f"the {self.name} answered without a receipt for what it was sent")
        return receipts

    def _as_error(self, response: ServerResponse) -> MusterError:
        reason = response.refusal.message or response.reason
        if response.status == 401:
            return Unauthenticated(f"the {self.name} does not know this box's key: {reason}")
        if response.status == 403:
            return Forbidden(f"the {self.name} does not take probes with this key: {reason}")
        if response.status in (408, 429) or response.status >= 500:
            kind = _ServerFailed if response.status == 500 else Unavailable
            return kind(
                f"the {self.name} answered {response.status}: {reason}",
                retry_after_s=response.retry_after_s,
            )
        return Unavailable(
            f"the {self.name} answered {response.status} {reason}: is that a match-server?"
        )


class _ServerFailed(Unavailable):
    """The server had an internal error (500) while it handled the request."""
