"""How long the edge agent waits for a server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. After a timeout the server counts as unreachable."""

    connect_s: float = 5.0  # for each address of the server
    silence_s: float = 20.0  # until the next bytes of a response
    request_s: float = 60.0  # for a request and its whole response, however slowly it comes
