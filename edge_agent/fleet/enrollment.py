"""Enrollment of a device: a short code, typed in or shown to its camera, is changed for a key."""

import hashlib
import json
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import cv2
import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from edge_agent.capture.source import open_source, read
from edge_agent.config.loading import settings_from
from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.http_session import ServerSession
from shared.addresses import redacted
from shared.enrollment_code import Invitation
from shared.errors import (
    ConfigurationError,
    MalformedInput,
    SourceError,
    Unauthenticated,
    Unavailable,
    UnreadablePicture,
)
from shared.files import write_durably
from shared.unreachable import why_unreachable
from shared.wire.device import DeviceGrant

_TIMEOUT_S: Final = 15.0
_TIMEOUTS: Final = Timeouts(connect_s=_TIMEOUT_S, silence_s=_TIMEOUT_S, request_s=2 * _TIMEOUT_S)
_MAX_BYTES: Final = 64 * 1024
_TRUST: Final = "give --ca-file, or use the QR picture, which names the certificate"
_MAX_WIDTH: Final = 1280  # pixels: enough to read a QR code


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The result of an enrollment."""

    device: str
    site: str
    server: str
    config: Path
    key_file: Path


def read_invitation(source: str, timeout_s: float) -> Invitation:
    """Reads the invitation in a QR picture in front of a camera (or in a film or picture).

    Raises SourceError when there is none within `timeout_s` or before the film ends.
    """
    detector = cv2.QRCodeDetector()
    until_s = time.monotonic() + timeout_s
    opened = open_source(source)
    try:
        while time.monotonic() < until_s:
            try:
                taken = read(opened)
            except UnreadablePicture:
                continue
            if taken is None:
                break
            picture = taken[0]
            if picture.shape[1] > _MAX_WIDTH:
                scale = _MAX_WIDTH / picture.shape[1]
                picture = cv2.resize(  # type: ignore[assignment]
                    picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
                )
            try:
                return Invitation.read(detector.detectAndDecode(picture)[0])
            except MalformedInput:
                continue  # no QR code, or another one
            except (cv2.error, UnicodeDecodeError):
                continue  # a code that OpenCV cannot read, or that is no text
    finally:
        opened.close()
    raise SourceError(
        f"no invitation was seen by {redacted(source)}: hold the QR picture close and still"
    )


def enroll(
    invitation: Invitation,
    *,
    config: Path,
    state_dir: Path,
    source: str,
    ca_file: Path | None = None,
    timeouts: Timeouts = _TIMEOUTS,
) -> Enrolled:
    """Gets the key for the invitation's code, and writes the key and the configuration.

    An existing configuration at `config` is changed, its comments stay; a new one has the camera
    `source`. Everything that can fail here is tried before the code is used. Raises
    ConfigurationError, Unavailable, Unauthenticated.
    """
    before = _text(config)
    state_dir = Path(str(tomlkit.parse(before).get("state_dir", state_dir)))
    key_file = state_dir / "server.key"
    _require_writable(config)
    _require_writable(key_file)
    trial = DeviceGrant(device="box", site="main", key="none yet")
    _filled(before, trial, config, invitation.server, key_file, state_dir, source, ca_file)
    if invitation.certificate_sha256 is not None and ca_file is None:
        ca_file = state_dir / "server.pem"
        certificate = _certificate_of(invitation.server, invitation.certificate_sha256)
        write_durably(ca_file, certificate.encode("ascii"), mode=0o644)
        _set_ids(ca_file, _ids_of(state_dir))
    grant = _redeem(invitation, ca_file, timeouts)
    write_durably(key_file, f"{grant.key}\n".encode("ascii"), mode=0o600)
    _set_ids(key_file, _ids_of(state_dir))
    text = _filled(before, grant, config, invitation.server, key_file, state_dir, source, ca_file)
    ids = _ids_of(config) if config.exists() else (0, _ids_of(state_dir)[1])
    mode = config.stat().st_mode & 0o777 if config.exists() else 0o640
    write_durably(config, text.encode("utf-8"), mode=mode)
    _set_ids(config, ids)
    return Enrolled(grant.device, grant.site, invitation.server, config, key_file)


def _ids_of(path: Path) -> tuple[int, int]:
    """Returns the ids of the file's user and group."""
    status = path.stat()
    return status.st_uid, status.st_gid


def _set_ids(file: Path, ids: tuple[int, int]) -> None:
    """Where root enrolls the device, the user of the agent must be able to read the file."""
    if os.geteuid() == 0:
        os.chown(file, *ids)


def _redeem(invitation: Invitation, ca_file: Path | None, timeouts: Timeouts) -> DeviceGrant:
    session = ServerSession(invitation.server, None, ca_file=ca_file, timeouts=timeouts)
    body = json.dumps({"code": invitation.code, "signs": True}).encode()
    try:
        response = session.call("POST", "/v1/devices/enroll", body=body, max_bytes=_MAX_BYTES)
    except Unavailable as error:
        if isinstance(error.__cause__, Exception):
            raise _unreachable(invitation.server, error.__cause__) from error
        raise
    finally:
        session.close()
    if response.ok:
        try:
            return DeviceGrant.model_validate_json(response.body)
        except ValidationError as error:
            raise Unavailable(f"{invitation.server} is no match-server") from error
    reason = response.refusal.message or f"HTTP {response.status}"
    raise Unauthenticated(f"{invitation.server} gives no key: {reason}")


def _unreachable(server: str, error: Exception) -> Unavailable:
    why = why_unreachable(error, trust=_TRUST, plain="http://")
    return Unavailable(f"{server} cannot be reached: {why.cause}; {why.advice}")


def _certificate_of(server: str, sha256: str) -> str:
    """Returns the server's certificate (PEM), if it has the fingerprint of the invitation."""
    parts = urlsplit(server)
    if parts.scheme != "https" or parts.hostname is None:
        raise ConfigurationError(f"{server} is not https://…, so it shows no certificate")
    try:
        pem = ssl.get_server_certificate((parts.hostname, parts.port or 443), timeout=_TIMEOUT_S)
    except OSError as error:
        raise _unreachable(server, error) from error
    if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() != sha256:
        raise Unauthenticated(
            f"{server} shows another certificate than the invitation promises: "
            "this may be an attack; no code was sent"
        )
    return pem


def _text(config: Path) -> str:
    """Returns the text of the configuration; empty where there is none yet."""
    if not config.exists():
        return ""
    try:
        text = config.read_text(encoding="utf-8")
        tomlkit.parse(text)
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise ConfigurationError(f"the configuration {config} cannot be read: {error}") from error
    return text


def _require_writable(file: Path) -> None:
    probe = file.with_name(f".{file.name}.try")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(probe, b"", mode=0o600)
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error


def _filled(
    before: str,
    grant: DeviceGrant,
    config: Path,
    server: str,
    key_file: Path,
    state_dir: Path,
    source: str,
    ca_file: Path | None,
) -> str:
    """Returns the configuration with the device and its server, and with the old comments.

    Raises ConfigurationError for a configuration that `edge-agent run` would refuse.
    """
    document = tomlkit.parse(before)
    if not document:
        document.add(tomlkit.comment("Written by `edge-agent enroll-device`."))
    document["device"] = grant.device  # tomlkit puts plain keys before the first section
    document["site"] = grant.site
    document.setdefault("state_dir", str(state_dir))
    if "server" not in document:
        document["server"] = tomlkit.table()
    section = document["server"]
    section["url"] = server
    section["key_file"] = str(key_file)
    if ca_file is not None:
        section["ca_file"] = str(ca_file)
    if "cameras" not in document:
        camera = tomlkit.table()
        camera["name"] = "camera"
        camera["source"] = source
        cameras = tomlkit.aot()
        cameras.append(camera)
        document["cameras"] = cameras
    settings_from(document.unwrap(), str(config))
    return tomlkit.dumps(document)
