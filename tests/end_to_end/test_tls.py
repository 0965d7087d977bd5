"""TLS from end to end: a real authority, a real server, and clients like browser and box."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import trustme

from edge_agent.delivery.http import HttpTransport
from edge_agent.outbox.records import StoredProbe
from match_server.process.preflight import require_sound_tls
from match_server.settings import Settings
from shared.errors import ConfigurationError, Unavailable
from tests.attacks.clients import storm
from tests.support.launcher import MATCH_SERVER, Launched
from tests.support.serving import key as create_key


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of an authority, and of a server and a client with its certificates."""

    authority: Path
    certificate: Path
    key: Path
    client: Path


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str  # of role admin
    files: Files

    def get(self, path: str, **more: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        options = {"verify": str(self.files.authority), "headers": headers, **more}
        return requests.get(self.url + path, timeout=30, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("box@example.org")
    made = Files(*(folder / name for name in ("ca.pem", "cert.pem", "key.pem", "client.pem")))
    authority.cert_pem.write_to_path(made.authority)
    made.certificate.write_bytes(b"".join(one.bytes() for one in server.cert_chain_pems))
    server.private_key_pem.write_to_path(made.key)
    client.private_key_and_cert_chain_pem.write_to_path(made.client)
    return made


@contextmanager
def _serving(folder: Path, files: Files, **settings: Path | str) -> Iterator[Server]:
    settings_of_tls = {"tls_certificate": files.certificate, "tls_key": files.key, **settings}
    environment = {f"MUSTER_{name.upper()}": str(value) for name, value in settings_of_tls.items()}
    environment |= {**os.environ, "OMP_NUM_THREADS": "1"}
    data = ["--data-dir", str(folder / "data")]
    key = create_key(folder / "data", "admin")
    with (folder / "log").open("wb") as log:
        process = Launched(
            [MATCH_SERVER, "serve", "--port", "0", *data],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
    try:
        assert process.stdout is not None
        address = re.search(r"https://[\d.:]+", process.stdout.readline())
        assert address, (folder / "log").read_text()
        yield Server(address[0], key, files)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Server]:
    timeout = {"client_timeout_s": "2"}
    with _serving(tmp_path_factory.mktemp("server"), files, **timeout) as made:
        yield made


def test_who_knows_the_authority_is_served_and_told_to_come_by_tls_only(server: Server) -> None:
    answer = server.get("/v1/collections")
    assert answer.status_code == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    with pytest.raises(requests.exceptions.SSLError):
        server.get("/healthz", verify=True)


def test_without_tls_or_with_an_old_one_there_is_no_answer(server: Server) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url.replace("https", "http") + "/healthz", timeout=30)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(server.files.authority)
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    address = urlsplit(server.url)
    assert address.hostname is not None
    with (
        socket.create_connection((address.hostname, address.port or 0), timeout=30) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(plain, server_hostname=address.hostname)


def test_clients_that_do_not_finish_their_handshake_hold_up_nobody(server: Server) -> None:
    """Four times as many as threads, and more: silent, or with the beginning of a hello."""
    host, port = server.url.removeprefix("https://").split(":")
    hello = bytes.fromhex("16030100f8010000f40303")
    with ExitStack() as slow:
        for number in range(80):
            connection = slow.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(hello[: number % 2 * len(hello)])
        assert server.get("/healthz").json()["status"] == "ok"


def test_a_handshake_that_drips_is_cut_off_after_the_whole_time_that_it_has(
    server: Server,
) -> None:
    host, port = server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(bytes.fromhex("16030100f8010000f40303"))
        connection.settimeout(0.1)
        deadline = time.monotonic() + 30
        while True:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                assert time.monotonic() < deadline
            except ConnectionError:
                return


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_nobody_negotiates_again_on_an_open_connection(server: Server) -> None:
    command = ["openssl", "s_client", "-tls1_2", "-connect", server.url.removeprefix("https://")]
    ended = subprocess.run(command, input=b"R\n", capture_output=True, timeout=30, check=False)
    assert b"RENEGOTIATING" in ended.stderr
    assert b"no renegotiation" in ended.stderr


def test_an_answer_that_is_read_late_comes_whole(server: Server) -> None:
    """The response exceeds the buffers of the kernel: the loop keeps and sends the rest."""
    host, port = server.url.removeprefix("https://").split(":")
    whole = server.get("/openapi.json").content
    context = ssl.create_default_context(cafile=str(server.files.authority))
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(30)
        plain.connect((host, int(port)))
        with context.wrap_socket(plain, server_hostname=host) as connection:
            connection.sendall(ask * 20)
            time.sleep(0.5)  # until the first of them cannot be sent
            connection.sendall(ask.replace(b"Host: x", b"Host: x\r\nConnection: close"))
            answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.count(whole) == 21


def test_clients_that_do_one_odd_thing_after_the_other_disturb_nobody(server: Server) -> None:
    connections, took_s = storm(
        server.url, server.key, seconds=1.5, seed=2, authority=server.files.authority
    )
    assert connections > 20
    assert took_s


def test_the_pages_cookie_travels_by_tls_only(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/login",
        data={"key": server.key},
        verify=str(server.files.authority),
        allow_redirects=False,
        timeout=30,
    )
    assert answer.status_code == 303
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_a_box_speaks_to_a_server_whose_authority_it_was_given(server: Server) -> None:
    probe = StoredProbe(sequence=1, probe_id="no", body=b'{"probe_id": "no"}')
    box = HttpTransport(server.url, server.key, ca_file=server.files.authority)
    (receipt,) = box.exchange([probe])  # no probe at all, and told so: they did speak
    assert (receipt.status, receipt.code) == ("refused", "malformed")
    box.close(1)
    stranger = HttpTransport(server.url, server.key)
    with pytest.raises(Unavailable, match="certificate"):
        stranger.exchange([probe])
    stranger.close(1)


def test_with_an_authority_for_clients_only_those_it_vouches_for_connect(
    tmp_path: Path, files: Files
) -> None:
    with _serving(tmp_path, files, tls_client_ca=files.authority) as server:
        assert server.get("/healthz", cert=str(files.client)).status_code == 200
        with pytest.raises(requests.ConnectionError):
            server.get("/healthz")


def test_files_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path: Path, files: Files
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    for settings in (
        {"tls_certificate": files.certificate},
        {"tls_key": files.key},
        {"tls_client_ca": files.authority},
        {"tls_certificate": files.certificate, "tls_key": other},
        {"tls_certificate": tmp_path / "none", "tls_key": files.key},
        {
            "tls_certificate": files.certificate,
            "tls_key": files.key,
            "tls_client_ca": tmp_path / "none",
        },
    ):
        with pytest.raises(ConfigurationError, match="tls_"):
            require_sound_tls(Settings(**settings))  # type: ignore[arg-type]
    require_sound_tls(Settings(tls_certificate=files.certificate, tls_key=files.key))
