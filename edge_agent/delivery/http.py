"""Probes over HTTP: POST /v1/probes, in batches, in order."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.batching import Window
from edge_agent.delivery.http_session import Answer, ServerSession, TooSlow
from edge_agent.outbox.records import StoredProbe
from shared.addresses import redacted
from shared.clock import Clock, SystemClock
from shared.errors import ConfigurationError, Forbidden, MusterError, Unauthenticated, Unavailable
from shared.wire.messages import ProbeReceipt, TrackMessage

_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_AT_FAULT: Final = frozenset({400, 409, 413, 415, 422})
"""What the server answers when the request itself is wrong and will stay so."""
_UNKNOWN_CALL: Final = frozenset({404, 405})
"""What a server answers that is older than the call."""


class _Receipt(BaseModel):
    """One entry of the answer; the decision that may come with it is of no use to the box."""

    model_config = ConfigDict(extra="ignore")

    probe_id: str
    status: str
    code: str | None = None
    message: str | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    probes: list[_Receipt] = Field(max_length=1000)


class HttpTransport:
    """The road over HTTP(S). One request at a time, over one kept connection.

    `url` is the server's base address; `ca_file` a private certificate authority. Redirects are not
    followed: a key is for one server. `close` ends a request that is under way.
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
        self._window = Window(clock or SystemClock())

    @property
    def name(self) -> str:
        return self._session.name

    def open(self, wake: Callable[[], None]) -> None:
        """Nothing to prepare: the connection is made by the first request."""

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        offered = self._window.choose(batch)
        try:
            receipts = self._offer(offered)
        except TooSlow:
            self._window.was_too_slow(offered)
            raise
        except _Broken:
            self._window.broke_the_server(offered)
            raise
        self._window.went_well()
        return receipts

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        body = "[" + ",".join(one.model_dump_json() for one in messages) + "]"
        answer = self._post("/v1/tracks", body.encode())
        if not answer.ok and answer.status not in _AT_FAULT | _UNKNOWN_CALL:
            raise self._as_error(answer)

    def close(self, timeout_s: float) -> None:
        self._session.close()

    def _offer(self, probes: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        answer = self._post("/v1/probes", b"[" + b",".join(one.body for one in probes) + b"]")
        if answer.ok:
            return self._receipts(answer, probes)
        if answer.status not in _AT_FAULT:
            raise self._as_error(answer)
        if len(probes) > 1:
            return self._offer_each(probes)
        refusal = answer.refusal
        return [
            ProbeReceipt(
                probe_id=probes[0].probe_id,
                status="refused",
                code=refusal.code,
                message=refusal.message or f"HTTP {answer.status}",
            )
        ]

    def _offer_each(self, probes: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        """Which of them is at fault is found by offering each alone, as far as that goes."""
        receipts: list[ProbeReceipt] = []
        for probe in probes:
            try:
                receipts += self._offer([probe])
            except MusterError:
                if not receipts:
                    raise
                break  # what was answered counts; the rest is offered again
        return receipts

    def _post(self, path: str, body: bytes) -> Answer:
        return self._session.call("POST", path, body=body, most_bytes=_MAX_ANSWER_BYTES)

    def _receipts(self, answer: Answer, offered: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        """The receipts for what was offered; what else the answer names is not ours to forget."""
        ours = {probe.probe_id for probe in offered}
        receipts: list[ProbeReceipt] = []
        try:
            named = _Answer.model_validate_json(answer.body).probes
        except ValidationError as error:
            raise Unavailable(
                f"the {self.name} answered {answer.status} without receipts:"
                " is that a match-server?"
            ) from error
        for one in named:
            if one.probe_id in ours:
                with suppress(ValidationError):  # a word that is not known here is no receipt
                    receipts.append(ProbeReceipt.model_validate(one.model_dump()))
        if not receipts:
            raise Unavailable(f"the {self.name} answered without a receipt for what it was sent")
        return receipts

    def _as_error(self, answer: Answer) -> MusterError:
        said = answer.refusal.message or answer.reason
        if answer.status == 401:
            return Unauthenticated(f"the {self.name} does not know this box's key: {said}")
        if answer.status == 403:
            return Forbidden(f"the {self.name} does not take probes with this key: {said}")
        if answer.status in (408, 429) or answer.status >= 500:
            kind = _Broken if answer.status == 500 else Unavailable
            return kind(
                f"the {self.name} answered {answer.status}: {said}",
                retry_after_s=answer.retry_after_s,
            )
        return Unavailable(
            f"the {self.name} answered {answer.status} {said}: is that a match-server?"
        )


class _Broken(Unavailable):
    """The server failed at what it was offered, and says that this is its own fault."""
