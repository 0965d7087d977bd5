"""The operating system's users, by name where they have one."""

import os
import pwd


def user_name(uid: int | None = None) -> str:
    """The name of a user, by default of the one that this process runs as; its number if none."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
