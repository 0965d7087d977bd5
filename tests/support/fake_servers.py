"""A minimal server for both transports, over real sockets."""

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.mqtt import MqttTransport
from edge_agent.delivery.transport import Transport
from shared.mqtt_client import MqttLogin
from shared.wire.messages import ProbeMessage, ProbeReceipt, ReceiptMessage, TrackMessage
from shared.wire.topics import DeviceTopics

KEY = "the-key-of-this-box"
SITE = "lab"


class Ledger:
    """The probes of the server: each is accepted once, later copies are duplicates."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.probes: list[ProbeMessage] = []  # in the order in which they were first accepted
        self.offers: list[str] = []  # every id every time
        self.refused: set[int] = set()  # sequence numbers that are to be refused
        self.silent = False  # takes probes in and answers nothing

    def receipt(self, body: Any) -> ProbeReceipt:
        probe = ProbeMessage.model_validate(body)
        with self.changed:
            self.offers.append(probe.probe_id)
            self.changed.notify_all()
            if probe.sequence in self.refused:
                return ProbeReceipt(
                    probe_id=probe.probe_id,
                    status="refused",
                    code="model_mismatch",
                    message="another model",
                )
            if any(known.probe_id == probe.probe_id for known in self.probes):
                return ProbeReceipt(probe_id=probe.probe_id, status="duplicate")
            self.probes.append(probe)
            return ProbeReceipt(probe_id=probe.probe_id, status="accepted")

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        with self.changed:
            return self.changed.wait_for(what, timeout_s)

    @property
    def sequences(self) -> list[int]:
        return [probe.sequence for probe in self.probes]


class FakeServer(Protocol):
    ledger: Ledger

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def transport(self) -> Transport: ...


class FakeHttpServer:
    """POST /v1/probes over a threaded HTTP server. `answer`, where set, is the response."""

    def __init__(self, port: int) -> None:
        self.ledger = Ledger()
        self.port = port
        self.answer: Callable[[list[Any]], tuple[int, dict[str, str], bytes] | None] = lambda _: (
            None
        )
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, authorization
        self.tracks: list[TrackMessage] = []
        self.tracks_status = 200
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers.get("Authorization")
                end.requests.append((self.command, self.path, key))
                if self.path == "/v1/tracks":
                    end.tracks += [TrackMessage.model_validate(one) for one in body]
                    status, headers, answer = end.tracks_status, {}, b"{}"
                else:
                    status, headers, answer = end._answer(body, key)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # they do not read it to the end
                    self.wfile.write(answer)

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def transport(self) -> Transport:
        return HttpTransport(self.url, KEY)

    def _answer(self, body: list[Any], key: str | None) -> tuple[int, dict[str, str], bytes]:
        if key != f"Bearer {KEY}":
            return 401, {}, b'{"code": "unauthenticated", "message": "no such key"}'
        special = self.answer(body)
        if special is not None:
            return special
        if self.ledger.silent:
            return 503, {}, b'{"code": "unavailable", "message": "starting"}'
        receipts = [self.ledger.receipt(one).model_dump() | {"event": None} for one in body]
        return 200, {}, json.dumps({"probes": receipts, "seq": 7}).encode()


class Broker:
    """One mosquitto process on loopback. It writes down what it knows when it is stopped and every
    five seconds, unless it is a `forgetful` one."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        port: int,
        extra: str = "",
        *,
        forgetful: bool = False,
    ) -> None:
        self.port = port
        self._program = program
        self._config = folder / "mosquitto.conf"
        memory = f"persistence true\nautosave_interval 5\npersistence_location {folder}/\n"
        self._config.write_text(
            f"listener {port} 127.0.0.1\nuser root\n"
            + ("" if forgetful else memory)
            + (extra or "allow_anonymous true\n")
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(self._program), "-c", str(self._config)], stderr=subprocess.PIPE
        )
        lines = self._process.stderr or []
        for line in lines:
            if b" running" in line:
                return
        raise RuntimeError("mosquitto did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        """Stops the process without closing its connections, until `thaw`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        while self._process is not None:
            self._process.terminate()
            # Mosquitto forgets a signal that comes between its last word and its main loop.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=1)
                self._process = None


class FakeIngest:
    """A fake `match-server ingest`: a subscriber that sends receipts."""

    def __init__(self, broker: Broker, device: str) -> None:
        self.ledger = Ledger()
        self.broker = broker
        self.topics = DeviceTopics(SITE, device)
        self._client: paho.Client | None = None

    def start(self) -> None:
        subscribed = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="ingest", protocol=paho.MQTTv5)
        client.on_connect = lambda *_: client.subscribe(self.topics.probe, qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 600
        client.connect("127.0.0.1", self.broker.port, clean_start=False, properties=session)
        client.loop_start()
        if not subscribed.wait(10):
            raise RuntimeError("no subscription within 10 s")
        self._client = client

    def stop(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def transport(self) -> Transport:
        return MqttTransport(self.broker.url, self.topics, MqttLogin(), resend_s=1.0)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        receipt = self.ledger.receipt(json.loads(message.payload))
        if not self.ledger.silent:
            body = ReceiptMessage(receipts=[receipt]).model_dump_json()
            client.publish(self.topics.receipt, body, qos=1)
