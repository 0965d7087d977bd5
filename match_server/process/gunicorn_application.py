"""gunicorn with this server's settings, its application and its worker class."""

import gc
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from match_server.app import create_app
from match_server.container import Services, build_services
from match_server.data_folder import page_secret
from match_server.process.connection_counts import ConnectionCounts
from match_server.process.json_logging import logging_config
from match_server.process.notifiers import webhook_deliverer
from match_server.process.parking_worker import CONNECTIONS, ParkingWorker
from match_server.services.metrics_sharing import end_sharing, forget_process
from match_server.services.webhooks.delivery import Deliverer
from match_server.settings import Settings
from shared.systemd import Watchdog

_GRACE_S = 10
_KEEPALIVE_S = 15
_NEW_OBJECTS = 20_000  # between two collections: those of some ten searches


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's master process; it also reports to systemd's watchdog.

    gunicorn itself reports READY. The master looks for workers that hang once a second and
    replaces them, so systemd needs to watch the master only.
    """

    def __init__(self, application: "GunicornApplication") -> None:
        self._watchdog = Watchdog()
        super().__init__(application)

    def murder_workers(self) -> None:
        super().murder_workers()
        self._watchdog.alive()


class _Logger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without a line for each request: the application writes that."""

    def access(self, *_request: Any) -> None:
        """Does nothing; gunicorn would put a line together even where no handler writes it."""


class GunicornApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Runs the application under gunicorn; each worker builds its own."""

    def __init__(self, settings: Settings, hints: Sequence[str]) -> None:
        self.connection_counts = ConnectionCounts()
        self._settings = settings
        self._hints = hints
        self._worker: Any = None
        self._services: Services | None = None  # of this worker
        self._deliverer: Deliverer | None = None  # of this worker
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        for name, value in {
            "bind": _address(settings.host, settings.port),
            "workers": settings.worker_processes,
            "worker_class": ParkingWorker,
            "worker_connections": CONNECTIONS,
            "threads": settings.threads,
            "graceful_timeout": _GRACE_S,
            "keepalive": _KEEPALIVE_S,
            # Forwarded headers count from `trusted_proxies` only, see `create_app`: else a program
            # on this machine could claim that it came by TLS, or by another path.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "secure_scheme_headers": {},
            "sendfile": False,  # a slow client is not waited for: its response is kept
            "proc_name": "match-server",
            "control_socket_disable": True,
            "logger_class": _Logger,
            "logconfig_dict": logging_config(settings.log_level),
            "when_ready": self._print_address,
            "post_fork": self._set_worker,
            "worker_exit": self._close,
            "child_exit": self._forget,
            **_tls(settings),
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # noqa: S108, PTH112
        }.items():
            self.cfg.set(name, value)

    @property
    def client_timeout_s(self) -> int:
        return self._settings.client_timeout_s

    def run(self) -> None:
        master = os.getpid()
        try:
            _Arbiter(self).run()
        finally:
            if os.getpid() == master:  # workers end here as well
                end_sharing()

    def load(self) -> Flask:
        self._services = build_services(self._settings)
        self._services.housekeeper.start()
        secret = page_secret(self._settings.data_dir)
        worker = self._worker
        self._deliverer = webhook_deliverer(self._services)
        self._deliverer.start()
        app = create_app(self._services, secret, stopping=lambda: not worker.alive)
        gc.freeze()  # the collector need not look through the loaded modules again and again
        gc.set_threshold(_NEW_OBJECTS, 20, 50)  # nor through a request's objects several times
        return app

    def _forget(self, _arbiter: Any, worker: Any) -> None:
        self.connection_counts.forget(worker)
        forget_process(worker.pid)

    def _set_worker(self, _arbiter: Any, worker: Any) -> None:
        self._worker = worker

    def _close(self, _arbiter: Any, _worker: Any) -> None:
        if self._deliverer is not None:
            self._deliverer.close()
        if self._services is not None:
            self._services.close()

    def _print_address(self, arbiter: Any) -> None:
        """Prints the address of the server, for a person and for a script."""
        host, port = arbiter.LISTENERS[0].sock.getsockname()[:2]
        page = " (open to this machine without a key)" if self._settings.open_page else ""
        scheme = "https" if self._settings.tls_certificate else "http"
        lines = [f"Muster is at {scheme}://{_address(host, port)}/{page}", *self._hints]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def _tls(settings: Settings) -> dict[str, Any]:
    """Returns gunicorn's settings for TLS; none without a certificate."""
    if settings.tls_certificate is None:
        return {}

    def at_least_1_2(_config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # costs the server far more than the client
        return context

    authority = settings.tls_client_ca
    return {
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "ca_certs": None if authority is None else str(authority),
        "cert_reqs": ssl.CERT_NONE if authority is None else ssl.CERT_REQUIRED,
        "ssl_context": at_least_1_2,
    }


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
