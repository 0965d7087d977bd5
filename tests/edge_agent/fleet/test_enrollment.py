"""Enrollment: a typed code, a QR picture, a self-signed certificate, and the written files."""

import datetime as dt
import hashlib
import ipaddress
import json
import os
import random
import ssl
import stat
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.cli.main import main
from edge_agent.config.loading import load_settings
from edge_agent.fleet.enrollment import enroll, read_invitation
from shared.enrollment_code import Invitation
from shared.errors import (
    ConfigurationError,
    MalformedInput,
    SourceError,
    Unauthenticated,
    Unavailable,
)
from tests.attacks import qr

CODE = "ABCD1234"
GRANT = {"schema_version": 1, "device": "entrance", "site": "hq", "key": "muster_ab12_the-secret"}


class Server:
    """Accepts the code once, optionally over TLS with a self-signed certificate."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self.codes: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.codes.append(body["code"])
                good = body["code"] == CODE and server.codes.count(CODE) == 1
                answer = GRANT if good else {"code": "unauthenticated", "message": "not known"}
                self.send_response(200 if good else 401)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.certificate = own_certificate(folder)
            context.load_cert_chain(self.certificate, folder / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def own_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, as in small installations."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muster")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path, tls=False)
    yield one
    one.close()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path, tls=True)
    yield one
    one.close()


def enrolled(tmp_path: Path, invitation: Invitation) -> Path:
    config = tmp_path / "agent.toml"
    enroll(invitation, config=config, state_dir=tmp_path / "state", source="/dev/video0")
    return config


def test_a_new_box_gets_a_configuration_that_runs_and_a_key_for_itself_alone(
    tmp_path: Path, server: Server
) -> None:
    config = enrolled(tmp_path, Invitation(server.url, CODE))
    settings = load_settings(config)
    assert (settings.device, settings.site) == ("entrance", "hq")
    assert settings.cameras[0].source == "/dev/video0"
    assert settings.server is not None
    assert settings.server.key() == GRANT["key"]
    assert str(GRANT["key"]) not in config.read_text()
    key_file = settings.server.key_file
    assert key_file is not None
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_what_stands_in_a_configuration_stays_with_its_comments(
    tmp_path: Path, server: Server
) -> None:
    config = tmp_path / "agent.toml"
    state = tmp_path / "elsewhere"
    config.write_text(
        f'# my box\nstate_dir = "{state}"  # on the big disk\n\n[[cameras]]\n# over the door\n'
        'name = "door"\nsource = "rtsp://10.0.0.9/live"\n\n[shots]\ngate = "passport"\n'
    )
    enrolled(tmp_path, Invitation(server.url, CODE))
    text = config.read_text()
    assert all(kept in text for kept in ("# my box", "# on the big disk", "# over the door"))
    table = tomllib.loads(text)
    assert table["device"] == "entrance"
    assert [camera["name"] for camera in table["cameras"]] == ["door"]
    assert table["shots"] == {"gate": "passport"}
    assert (state / "server.key").is_file()


def test_a_configuration_that_would_not_run_is_named_before_the_code_is_used_up(
    tmp_path: Path, server: Server
) -> None:
    (tmp_path / "agent.toml").write_text("sitte = 'x'\n")
    with pytest.raises(ConfigurationError, match="unknown key 'sitte'"):
        enrolled(tmp_path, Invitation(server.url, CODE))
    assert server.codes == []


def test_a_wrong_code_and_a_dead_server_are_told_apart_and_nothing_is_written(
    tmp_path: Path, server: Server
) -> None:
    with pytest.raises(Unauthenticated, match="not known"):
        enrolled(tmp_path, Invitation(server.url, "WR0NGC0D"))
    server.close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        enrolled(tmp_path, Invitation(server.url, CODE))
    assert not (tmp_path / "agent.toml").exists()
    assert not (tmp_path / "state" / "server.key").exists()


def test_the_certificate_that_the_picture_promises_is_trusted_from_then_on(
    tmp_path: Path, tls_server: Server
) -> None:
    der = ssl.PEM_cert_to_DER_cert(tls_server.certificate.read_text())
    promised = hashlib.sha256(der).hexdigest()
    settings = load_settings(enrolled(tmp_path, Invitation(tls_server.url, CODE, promised)))
    assert settings.server is not None
    assert settings.server.ca_file is not None
    assert settings.server.ca_file.read_text() == tls_server.certificate.read_text()


def test_whoever_stands_between_gets_no_code(tmp_path: Path, tls_server: Server) -> None:
    with pytest.raises(Unauthenticated, match="this may be an attack"):
        enrolled(tmp_path, Invitation(tls_server.url, CODE, "0" * 64))
    with pytest.raises(Unavailable, match="no authority that is trusted here"):
        enrolled(tmp_path, Invitation(tls_server.url, CODE))
    assert tls_server.codes == []


def test_a_picture_held_askew_before_a_camera_is_read(tmp_path: Path) -> None:
    segno = pytest.importorskip("segno")
    invitation = Invitation("https://muster.example:8443", CODE, "0f" * 32)
    segno.make(invitation.text(), error="m", micro=False).save(tmp_path / "qr.png", scale=7)
    code = cv2.imread(str(tmp_path / "qr.png"))
    scene = np.random.default_rng(0).integers(90, 160, (720, 1280, 3), dtype=np.uint8)
    side = code.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 12, 0.9)
    turn[:, 2] += (420, 120)
    held = cv2.warpAffine(code, turn, (1280, 720), borderValue=(0, 0, 0))
    mask = cv2.warpAffine(np.full_like(code, 255), turn, (1280, 720))
    scene[mask > 127] = held[mask > 127]
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.full((720, 1280, 3), 120, np.uint8))
    cv2.imwrite(str(folder / "1.png"), cv2.GaussianBlur(scene, (3, 3), 0))
    assert read_invitation(str(folder), 20.0) == invitation


def test_whatever_other_codes_say_the_invitation_behind_them_is_read(tmp_path: Path) -> None:
    for text in ("muster:enroll?" + "a=1&" * 9, "muster:enroll?server=http://[&code=ABCD1234"):
        with pytest.raises(MalformedInput, match="no invitation"):
            Invitation.read(text)
    qr.read_texts(random.Random(3), 1000)
    qr.show_pictures(random.Random(3), tmp_path)


def test_without_a_picture_it_is_said_what_to_do(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((240, 320, 3), 120, np.uint8))
    with pytest.raises(SourceError, match="hold the QR picture close"):
        read_invitation(str(tmp_path / "wall.png"), 5.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_enrolls_for_the_user_to_whom_the_state_belongs(
    tmp_path: Path, server: Server
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 4711, 4712)
    config = enrolled(tmp_path, Invitation(server.url, CODE))
    key_file = (state / "server.key").stat()
    assert (key_file.st_uid, key_file.st_gid) == (4711, 4712)
    assert (config.stat().st_uid, config.stat().st_gid) == (0, 4712)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640


def test_without_the_agents_libraries_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "edge_agent.fleet.enrollment")
    monkeypatch.setitem(sys.modules, "tomlkit", None)  # so that its import fails
    words = ["enroll-device", "--server", "http://127.0.0.1:9", CODE]
    done = CliRunner().invoke(main, [*words, "--config", str(tmp_path / "agent.toml")])
    assert done.exit_code == 1
    assert "pip install 'muster[edge]'" in done.output
