"""The reason why an RTSP camera cannot be opened, from its response."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from demo.processes import free_port
from edge_agent.capture.rtsp_error import why_not_opened
from edge_agent.capture.source import open_source
from edge_agent.config.camera import ConnectionSettings as Settings
from shared.errors import SourceError

SHA256 = 'Digest realm="c", nonce="n", algorithm=SHA-256, qop="auth"'
MD5 = 'Digest realm="c", nonce="n", algorithm="MD5"'
OLD = 'Digest realm="c", nonce="n"'
BASIC = 'Basic realm="c"'
LOGIN = Settings(username="me", password_file=Path("password"))


@contextlib.contextmanager
def answering(answer: str, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A camera that sends each client one response; yields its port."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    with contextlib.suppress(OSError), contextlib.closing(caller):
                        if context is not None:
                            caller = context.wrap_socket(caller, server_side=True)
                        caller.recv(4096)
                        caller.sendall(answer.encode())
                        caller.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def answer(status: str, offers: tuple[str, ...] = ()) -> str:
    lines = "".join(f"WWW-Authenticate: {offer}\r\n" for offer in offers)
    return f"RTSP/1.0 {status}\r\nCSeq: 1\r\n{lines}\r\n"


@pytest.mark.parametrize(
    ("response", "connection", "why"),
    [
        (answer("401 Unauthorized", (SHA256,)), LOGIN, "digest by SHA-256"),
        (answer("401 Unauthorized", (MD5, SHA256)), LOGIN, "digest by SHA-256"),
        (answer("401 Unauthorized", (SHA256, BASIC)), LOGIN, "digest by SHA-256"),
        (answer("401 Unauthorized", (SHA256, MD5)), LOGIN, "are name and password right"),
        (answer("401 Unauthorized", (OLD,)), LOGIN, "are name and password right"),
        (
            answer("401 Unauthorized", (BASIC,)),
            Settings(),
            "asks for a name and a password",
        ),
        (answer("404 Not Found"), LOGIN, "no such path"),
        (answer("200 OK"), LOGIN, "which codec"),
        (answer("503 Busy"), LOGIN, "answers 503"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", LOGIN, "does not speak RTSP"),
    ],
)
def test_the_cameras_response_says_why(response: str, connection: Settings, why: str) -> None:
    with answering(response) as port:
        assert why in why_not_opened(f"rtsp://127.0.0.1:{port}/x", connection)


def test_an_address_without_a_server_is_reported() -> None:
    assert "nothing listens" in why_not_opened(f"rtsp://127.0.0.1:{free_port()}/x", LOGIN)


def test_a_certificate_is_checked_where_an_authority_is_named(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with answering(answer("404 Not Found"), context) as port:
        for ca_file, why in (("ca.pem", "no such path"), ("other.pem", "no authority")):
            with pytest.raises(SourceError, match=why):
                open_source(f"rtsps://127.0.0.1:{port}/x", Settings(ca_file=tmp_path / ca_file))
