"""Probes over HTTP: POST /v1/probes, in batches, in order."""

from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.outbox import StoredProbe
from shared.clock import SystemClock
from shared.errors import ConfigurationError, Forbidden, MusterError, Unauthenticated, Unavailable
from shared.messages import ProbeReceipt, TrackMessage

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 20.0
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_AT_FAULT = frozenset({400, 409, 413, 415, 422})
"""What the server answers when the request itself is wrong and will stay so."""
_UNKNOWN_CALL = frozenset({404, 405})
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


class _Refusal(BaseModel):
    model_config = ConfigDict(extra="ignore")

    code: str = "refused"
    message: str = ""


class Bearer(requests.auth.AuthBase):
    """Given as `auth`, so that a .netrc of the machine cannot replace the key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class HttpTransport:
    """The road over HTTP(S). One request at a time, over one kept connection.

    `url` is the server's base address; `ca_file` a private certificate authority. Redirects are not
    followed: a key is for one server.
    """

    def __init__(self, url: str, key: str, *, ca_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"the server's address is http://… or https://…, not {url!r}", url=url
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("a key does not belong into the server's address")
        self._base = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = Bearer(key)
        self._session.headers["Content-Type"] = "application/json"
        if ca_file is not None:
            self._session.verify = str(ca_file)

    @property
    def name(self) -> str:
        return f"server {self._base}"

    def open(self, wake: Callable[[], None]) -> None:
        """Nothing to prepare: the connection is made by the first request."""

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        response = self._post("/v1/probes", b"[" + b",".join(one.body for one in batch) + b"]")
        if response.ok:
            return _receipts(response, batch)
        if response.status_code not in _AT_FAULT:
            raise _as_error(response)
        if len(batch) > 1:  # which of them is at fault is found by offering each alone
            return [receipt for probe in batch for receipt in self.exchange([probe])]
        refusal = refusal_of(response)
        return [
            ProbeReceipt(
                probe_id=batch[0].probe_id,
                status="refused",
                code=refusal.code,
                message=refusal.message or f"HTTP {response.status_code}",
            )
        ]

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        body = "[" + ",".join(one.model_dump_json() for one in messages) + "]"
        response = self._post("/v1/tracks", body.encode())
        if not response.ok and response.status_code not in _AT_FAULT | _UNKNOWN_CALL:
            raise _as_error(response)

    def close(self, timeout_s: float) -> None:
        self._session.close()

    def _post(self, path: str, body: bytes) -> requests.Response:
        try:
            return self._session.post(
                f"{self._base}{path}",
                data=body,
                timeout=(_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S),
                allow_redirects=False,
                # Else a REQUESTS_CA_BUNDLE in the environment takes the place of `ca_file`.
                verify=self._session.verify,
            )
        except requests.Timeout as error:
            raise Unavailable(f"the {self.name} did not answer in time") from error
        except requests.exceptions.SSLError as error:
            raise Unavailable(f"the {self.name} has no certificate that is trusted here") from error
        except requests.RequestException as error:
            raise Unavailable(f"the {self.name} cannot be reached") from error


def _receipts(response: requests.Response, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
    """The receipts for this batch; what else the answer names is not ours to forget."""
    ours = {probe.probe_id for probe in batch}
    try:
        if len(response.content) > _MAX_ANSWER_BYTES:
            raise Unavailable(f"{response.url} answered far more than receipts")
        answer = _Answer.model_validate_json(response.content)
        receipts = [
            ProbeReceipt.model_validate(one.model_dump())
            for one in answer.probes
            if one.probe_id in ours
        ]
    except ValidationError as error:
        raise Unavailable(
            f"{response.url} answered {response.status_code} without receipts:"
            " is that a match-server?"
        ) from error
    if not receipts:
        raise Unavailable(f"{response.url} answered without a receipt for what it was sent")
    return receipts


def _as_error(response: requests.Response) -> MusterError:
    status = response.status_code
    said = refusal_of(response).message or response.reason or ""
    if status == 401:
        return Unauthenticated(f"{response.url} does not know this box's key: {said}")
    if status == 403:
        return Forbidden(f"{response.url} does not take probes with this key: {said}")
    if status in (408, 429) or status >= 500:
        wait_s = retry_after_s(response)
        return Unavailable(f"{response.url} answered {status}: {said}", retry_after_s=wait_s)
    return Unavailable(f"{response.url} answered {status} {said}: is that a match-server?")


def refusal_of(response: requests.Response) -> _Refusal:
    try:
        return _Refusal.model_validate_json(response.content)
    except ValidationError:
        return _Refusal()


def retry_after_s(response: requests.Response) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3) in seconds, at most an hour; None where it is not said."""
    said = response.headers.get("Retry-After", "")
    if said.isdigit():
        return min(float(said), 3600.0)
    try:
        wait_s = (parsedate_to_datetime(said) - SystemClock().now()).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(wait_s, 0.0), 3600.0)
