"""Why an RTSP camera cannot be opened, which FFmpeg does not tell: it is asked once more, by hand.

One DESCRIBE without a login (RFC 7826, 13.2): its answer shows whether anything listens, whether
the path exists, and which logins are offered.
"""

import re
import socket
import ssl
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from edge_agent.capture.opencv_source import Asked, split_login
from shared.unreachable import why_unreachable

_TIMEOUT_S: Final = 3.0
_MOST_BYTES: Final = 8192
_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_STATUS: Final = re.compile(r"RTSP/\d\.\d (\d{3})")
_OFFERS: Final = re.compile(r"(?im)^WWW-Authenticate:\s*(.*)$")
_ALGORITHM: Final = re.compile(r'(?i)algorithm\s*=\s*"?([\w-]+)')
TRUST: Final = "set the camera's ca_file to its certificate, or to the authority that signed it"


def why_not_opened(spec: str, asked: Asked) -> str:
    """The rest of a sentence. Never raises."""
    address, login = split_login(spec)
    parts = urlsplit(address)
    try:
        answer = _described(address, parts.scheme, parts.hostname or "", parts.port, asked)
    except (OSError, ValueError) as error:
        why = why_unreachable(error, trust=TRUST, plain="rtsp://")
        return f"{why.found}; {why.advice}"
    status = _STATUS.match(answer)
    offers = _OFFERS.findall(answer)
    if status is None:
        return "what listens there does not speak RTSP; is the port right?"
    if status[1] == "401":
        if offers and not _can_log_in(offers):
            return (
                "it wants a login that FFmpeg does not know, such as digest by SHA-256: allow "
                "digest by MD5 alone, or basic alone, in the camera, or use its http:// address"
            )
        if asked.login is None and login is None:
            return "it asks for a name and a password: set username and password_file"
        return "are name and password right?"
    if status[1] == "404":
        return "it has no such path (404): the camera's manual says the right one"
    if status[1] == "200":
        return "it answers, but gives no picture that can be read: which codec is set in it?"
    return f"it answers {status[1]}: are address, name and password right?"


def _can_log_in(offers: list[str]) -> bool:
    """Whether FFmpeg can: it takes the last digest that is offered, which must be by MD5, or basic
    where there is no digest."""
    digests = [offer for offer in offers if offer.lower().startswith("digest")]
    if not digests:
        return any(offer.lower().startswith("basic") for offer in offers)
    algorithms: list[str] = _ALGORITHM.findall(digests[-1])
    return not algorithms or algorithms[-1].upper() == "MD5"


def _described(address: str, scheme: str, host: str, port: int | None, asked: Asked) -> str:
    request = f"DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    with closing(socket.create_connection((host, port or _PORTS[scheme]), _TIMEOUT_S)) as plain:
        connection = plain
        if scheme == "rtsps":
            connection = _trust(asked).wrap_socket(plain, server_hostname=host)
        with closing(connection):
            connection.sendall(request.encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < _MOST_BYTES:
                data = connection.recv(_MOST_BYTES)
                if not data:
                    break
                answer += data
    return answer.decode(errors="replace")


def _trust(asked: Asked) -> ssl.SSLContext:
    """As FFmpeg has it: certificates are checked where the settings name an authority."""
    context = ssl.create_default_context(cafile=asked.ca_file)
    if asked.ca_file is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
