"""Why a server cannot be spoken with, told from real refusals."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import trustme

from demo.processes import free_port
from shared.unreachable import why_unreachable

HOST = "127.0.0.1"


@contextmanager
def listening(greet: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which each caller is greeted so."""
    with closing(socket.create_server((HOST, 0))) as server:
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                caller, _ = server.accept()
                with caller:
                    try:
                        greet(caller)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopping.set()
            socket.create_connection(server.getsockname()).close()
            thread.join()


def shows(ca: trustme.CA, name: str, **validity: datetime) -> Callable[[socket.socket], None]:
    """Speaks TLS with a certificate for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, **validity).configure_cert(context)

    def greet(caller: socket.socket) -> None:
        caller.settimeout(5)
        context.wrap_socket(caller, server_side=True).close()

    return greet


def says_plainly(caller: socket.socket) -> None:
    caller.recv(1000)
    caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def tried(url: str, trust: bool | str = True) -> str:
    """Returns the text that people read about a failed call."""
    with pytest.raises(requests.RequestException) as caught:
        requests.get(url, timeout=0.5, verify=trust)
    why = why_unreachable(caught.value, trust="TRUST IT", plain="http://")
    return f"{why.cause}; {why.advice}"


def test_nobody_silence_and_an_unknown_name_are_told_apart() -> None:
    assert "nothing listens there" in tried(f"http://{HOST}:{free_port()}")
    with closing(socket.create_server((HOST, 0))) as mute:
        assert "does not answer" in tried(f"http://{HOST}:{mute.getsockname()[1]}")
    assert "its name is not known here" in tried("http://no-such-host.invalid")


def test_certificates_are_told_apart_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    ca, now = trustme.CA(), datetime.now(UTC)
    authority = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(authority))
    day = timedelta(days=1)

    def seen(greet: Callable[[socket.socket], None], trust: bool | str) -> str:
        with listening(greet) as port:
            return tried(f"https://{HOST}:{port}", trust)

    assert "no authority that is trusted here" in seen(shows(ca, HOST), True)
    assert "TRUST IT" in seen(shows(ca, HOST), True)
    assert "for another name" in seen(shows(ca, "127.0.0.2"), str(authority))
    old = shows(ca, HOST, not_before=now - 2 * day, not_after=now - day)
    assert "has expired; if this box's clock is wrong" in seen(old, str(authority))
    young = shows(ca, HOST, not_before=now + day, not_after=now + 2 * day)
    assert "is not valid yet" in seen(young, str(authority))


def test_tls_where_there_is_none_and_the_other_way_round_is_named() -> None:
    with listening(says_plainly) as port:
        assert "is it http:// there, and not https://?" in tried(f"https://{HOST}:{port}")
    with listening(shows(trustme.CA(), HOST)) as port:
        assert "is it https:// there, and not http://?" in tried(f"http://{HOST}:{port}")
