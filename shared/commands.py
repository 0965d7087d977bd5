"""Commands as messages show them, so that what is copied from a message works where it was read."""

import os

PREFIX = "MUSTER_COMMAND_PREFIX"  # of installed services: `sudo`, before commands that act as them


def installed() -> bool:
    """Whether this runs as an installed service does, whose commands know where its data is."""
    return bool(os.environ.get(PREFIX, "").strip())


def shown(command: str) -> str:
    """The command with the prefix of this installation, if it has one."""
    prefix = os.environ.get(PREFIX, "").strip()
    return f"{prefix} {command}" if prefix else command
