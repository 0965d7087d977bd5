"""What `match-server serve` checks before it starts: address, TLS and limits."""

import errno
import ipaddress
import resource
import socket
import ssl

from match_server.settings import Settings
from shared.errors import ConfigurationError

_FILES = 8192  # open at once: connections of clients, those to the database, segments of galleries


def require_loopback_for_open_page(settings: Settings) -> None:
    """Raises ConfigurationError when a page without a key could be seen from elsewhere."""
    if settings.open_page and not is_loopback(settings.host):
        raise ConfigurationError(
            f"open_page shows faces without a key, so it works on 127.0.0.1 only, not on "
            f"{settings.host}; leave it out and sign in with a key of role viewer"
        )


def require_free_address(host: str, port: int) -> None:
    """Raises ConfigurationError where this process cannot listen; gunicorn would try for long."""
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


def allow_many_connections() -> None:
    """Raises this process's limit of open files, which is often lower than that of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def is_loopback(host: str) -> bool:
    """Whether the host is an address of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
