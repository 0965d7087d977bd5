"""Finds out why an RTSP camera cannot be opened, which FFmpeg does not report.

It sends one DESCRIBE request without a login (RFC 7826, 13.2). The response shows whether a server
listens there, whether the path exists, and which logins are offered.
"""

import re
import socket
import ssl
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from edge_agent.capture.address import split_login
from edge_agent.config.camera import ConnectionSettings
from shared.unreachable import why_unreachable

_TIMEOUT_S: Final = 3.0
_MAX_BYTES: Final = 8192
_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_STATUS: Final = re.compile(r"RTSP/\d\.\d (\d{3})")
_OFFERS: Final = re.compile(r"(?im)^WWW-Authenticate:\s*(.*)$")
_ALGORITHM: Final = re.compile(r'(?i)algorithm\s*=\s*"?([\w-]+)')
TRUST: Final = "set the camera's ca_file to its certificate, or to the authority that signed it"


def why_not_opened(spec: str, settings: ConnectionSettings) -> str:
    """The reason, to be put after "cannot be opened: ". Never raises."""
    address, login = split_login(spec)
    try:
        response = _describe(address, settings)
    except (OSError, ValueError) as error:
        why = why_unreachable(error, trust=TRUST, plain="rtsp://")
        return f"{why.cause}; {why.advice}"
    status = _STATUS.match(response)
    offers = _OFFERS.findall(response)
    if status is None:
        return "what listens there does not speak RTSP; is the port right?"
    if status[1] == "401":
        if offers and not _can_log_in(offers):
            return (
                "it requires a login that FFmpeg does not know, such as digest by SHA-256: allow "
                "digest by MD5 alone, or basic alone, in the camera, or use its http:// address"
            )
        if settings.username is None and login is None:
            return "it asks for a name and a password: set username and password_file"
        return "are name and password right?"
    if status[1] == "404":
        return "it has no such path (404): the camera's manual says the right one"
    if status[1] == "200":
        return "it answers, but gives no picture that can be read: which codec is set in it?"
    return f"it answers {status[1]}: are address, name and password right?"


def _can_log_in(offers: list[str]) -> bool:
    """Whether FFmpeg can log in: the last digest must use MD5; without a digest, basic will do."""
    digests = [offer for offer in offers if offer.lower().startswith("digest")]
    if not digests:
        return any(offer.lower().startswith("basic") for offer in offers)
    algorithms: list[str] = _ALGORITHM.findall(digests[-1])
    return not algorithms or algorithms[-1].upper() == "MD5"


def _describe(address: str, settings: ConnectionSettings) -> str:
    """The camera's response to a DESCRIBE request."""
    parts = urlsplit(address)
    target = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    request = f"DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    with closing(socket.create_connection(target, _TIMEOUT_S)) as plain:
        connection = plain
        if parts.scheme == "rtsps":
            context = _tls_context(settings)
            connection = context.wrap_socket(plain, server_hostname=parts.hostname or "")
        with closing(connection):
            connection.sendall(request.encode())
            response = b""
            while b"\r\n\r\n" not in response and len(response) < _MAX_BYTES:
                data = connection.recv(_MAX_BYTES)
                if not data:
                    break
                response += data
    return response.decode(errors="replace")


def _tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Like FFmpeg, it checks certificates only where the settings name an authority."""
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.ca_file is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
