"""Names of the operating system's users."""

import os
import pwd


def user_name(uid: int | None = None) -> str:
    """Returns the name of a user, by default of this process; the number if it has no name."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
