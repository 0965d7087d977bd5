"""How long a server is waited for. Apart, so that settings can name it without importing a road."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds."""

    connect_s: float = 5.0  # for each of its addresses
    silence_s: float = 20.0  # until it says its next word
    request_s: float = 60.0  # for a request and its whole answer, however steadily it drips
