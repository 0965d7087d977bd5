"""`match-server serve`: the application under gunicorn, in worker processes with threads."""

import errno
import gc
import ipaddress
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from match_server.app import create_app
from match_server.container import Services, build_services
from match_server.data_folder import page_secret
from match_server.process.bootstrap import prepare
from match_server.process.json_logging import logging_config, set_up_logging
from match_server.process.notifiers import webhook_deliverer
from match_server.process.parking_worker import CONNECTIONS, ParkingWorker
from match_server.services.metrics import end_sharing, forget_process, share_metrics
from match_server.services.webhooks.delivery import Deliverer
from match_server.settings import Settings
from models.packs.choice import DetectorChoice
from models.packs.manifest import built_in_manifest
from models.packs.store import installed
from shared.commands import shown
from shared.errors import ConfigurationError
from shared.systemd import Watchdog

log = logging.getLogger(__name__)

_GRACE_S = 10
_KEEPALIVE_S = 15
_FILES = 8192  # open at once: connections of clients, those to the database, segments of galleries


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. The data folder is created and migrated first."""
    require_loopback_for_open_page(settings)
    require_sound_tls(settings)
    set_up_logging(settings.log_level)
    require_free_address(settings.host, settings.port)
    if not (_is_loopback(settings.host) or settings.tls_certificate or settings.trusted_proxies):
        log.warning("other machines reach this server without TLS: keys and faces can be read")
    _allow_many_connections()
    prepare(settings)
    share_metrics(settings.data_dir)
    services = build_services(settings)
    hints = _hints(settings, has_key=services.first_start())
    services.policy_warnings.log()
    services.close()  # nothing that is open may be carried through the fork
    _Gunicorn(settings, hints).run()


def _allow_many_connections() -> None:
    """Raise this process's own limit of open files, which is often near that of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_loopback_for_open_page(settings: Settings) -> None:
    """Raises ConfigurationError when a page without a key could be seen from elsewhere."""
    if settings.open_page and not _is_loopback(settings.host):
        raise ConfigurationError(
            f"open_page shows faces without a key, so it works on 127.0.0.1 only, not on "
            f"{settings.host}; leave it out and sign in with a key of role viewer"
        )


def require_free_address(host: str, port: int) -> None:
    """Raises ConfigurationError when nobody can listen there; gunicorn would try for long."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)  # binding alone is allowed beside another socket that does not listen
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"another program listens on port {port} of {host}: stop it, or give another --port"
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigurationError(
                f"this user may not listen on port {port}: give a --port from 1024 on"
            ) from error
        raise ConfigurationError(
            f"nobody can listen on {host!r}: {error.strerror}. 127.0.0.1 is for this machine "
            "alone, 0.0.0.0 for all that reach it"
        ) from error


def require_sound_tls(settings: Settings) -> None:
    """Raises ConfigurationError when the files for TLS cannot be used together."""
    certificate, key, authority = (
        settings.tls_certificate,
        settings.tls_key,
        settings.tls_client_ca,
    )
    if certificate is None or key is None:
        if certificate or key or authority:
            raise ConfigurationError(
                "TLS needs both tls_certificate and tls_key; tls_client_ca comes besides"
            )
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"tls_certificate, tls_key or tls_client_ca cannot be used: {error}"
        ) from error


def _tls(settings: Settings) -> dict[str, Any]:
    """TLS in gunicorn's words; nothing where there is no certificate."""
    if settings.tls_certificate is None:
        return {}

    def at_least_1_2(_config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # it costs us far more than the client
        return context

    authority = settings.tls_client_ca
    return {
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "ca_certs": None if authority is None else str(authority),
        "cert_reqs": ssl.CERT_NONE if authority is None else ssl.CERT_REQUIRED,
        "ssl_context": at_least_1_2,
    }


def _hints(settings: Settings, *, has_key: bool) -> list[str]:
    """What somebody who starts a server for the first time has to do yet."""
    lines = []
    if not has_key:
        lines += [
            "Nobody has a key yet. Make one with:",
            f"  {settings.command('key create --role admin')}",
        ]
    if missing := _missing_packs(settings):
        lines += ["Pictures cannot be read yet. Install the face models with:"]
        pull = shown(f"face-models pull {' '.join(missing)}")
        lines += [f"  {pull}"]
    return lines


def _missing_packs(settings: Settings) -> list[str]:
    """The packs that are needed to read pictures and are not installed."""
    name = settings.model_pack
    there = installed(name)
    pack = built_in_manifest().packs.get(name) if there is None else there.pack
    names = [name] if pack is None else [name, DetectorChoice(settings.model_detector).of(pack)]
    return [one for one in names if one is not None and installed(one) is None]


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's master, which says READY to systemd by itself, and here that it goes on living.

    It looks for workers that hang once a second, and replaces them; so systemd need only look
    after the master.
    """

    def __init__(self, application: "_Gunicorn") -> None:
        self._watchdog = Watchdog()
        super().__init__(application)

    def murder_workers(self) -> None:
        super().murder_workers()
        self._watchdog.alive()


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Our settings in gunicorn's words; the application is built in each worker."""

    def __init__(self, settings: Settings, hints: Sequence[str]) -> None:
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
            "workers": settings.workers,
            "worker_class": ParkingWorker,
            "worker_connections": CONNECTIONS,
            "threads": settings.threads,
            "graceful_timeout": _GRACE_S,
            "keepalive": _KEEPALIVE_S,
            # Of forwarded headers only those of `trusted_proxies` count, see `create_app`: else any
            # program on this machine could say that it came by TLS, or by another path.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "secure_scheme_headers": {},
            "sendfile": False,  # what a client does not take is kept, not waited for
            "proc_name": "match-server",
            "control_socket_disable": True,
            "logconfig_dict": logging_config(settings.log_level),
            "when_ready": self._announce,
            "post_fork": self._remember,
            "worker_exit": self._close,
            "child_exit": lambda _arbiter, worker: forget_process(worker.pid),
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
            if os.getpid() == master:  # workers leave by here as well
                end_sharing()

    def load(self) -> Flask:
        self._services = build_services(self._settings)
        self._services.housekeeper.start()
        secret = page_secret(self._settings.data_dir)
        worker = self._worker
        self._deliverer = webhook_deliverer(self._services)
        self._deliverer.start()
        app = create_app(self._services, secret, stopping=lambda: not worker.alive)
        gc.freeze()  # else all that has been loaded is looked through, again and again
        return app

    def _remember(self, _arbiter: Any, worker: Any) -> None:
        self._worker = worker

    def _close(self, _arbiter: Any, _worker: Any) -> None:
        if self._deliverer is not None:
            self._deliverer.close()
        if self._services is not None:
            self._services.close()

    def _announce(self, arbiter: Any) -> None:
        """Say where the server is, in a line that a person reads and a script can find."""
        host, port = arbiter.LISTENERS[0].sock.getsockname()[:2]
        page = " (open to this machine without a key)" if self._settings.open_page else ""
        scheme = "https" if self._settings.tls_certificate else "http"
        lines = [f"Muster is at {scheme}://{_address(host, port)}/{page}", *self._hints]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
