"""How the pages put things into words."""

from datetime import datetime

from shared.errors import MusterError


def in_words(error: MusterError) -> str:
    """A sentence for the page: with a capital, and an end."""
    return f"{error.message[:1].upper()}{error.message[1:]}."


def clock_time(moment: datetime) -> str:
    """What a page shows until its script writes the visitor's own time there."""
    return f"{moment:%H:%M:%S} UTC"


def day_time(moment: datetime) -> str:
    """The same with the day."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
