"""Values as the pages show them."""

from datetime import datetime

from shared.errors import MusterError


def as_sentence(error: MusterError) -> str:
    """Returns the error's message as a sentence."""
    return f"{error.message[:1].upper()}{error.message[1:]}."


def clock_time(moment: datetime) -> str:
    """Returns the time in UTC; a script replaces it by the visitor's local time."""
    return f"{moment:%H:%M:%S} UTC"


def day_time(moment: datetime) -> str:
    """Returns day and time in UTC; a script replaces it by the visitor's local time."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
