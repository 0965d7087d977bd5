"""Ends the agent's process, also while one of its threads hangs in a library."""

import logging
import os
import sys
import threading
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """Ends the process with `status`. All data must be on the disk already.

    The thread of a hanging camera stays inside OpenCV. When it returns while the interpreter shuts
    down, Python unwinds it through C++ code that does not allow it, and the process aborts: a clean
    stop would look like a crash. So while there is such a thread, the interpreter is not shut down.
    """
    hangs = any(
        thread.daemon and thread.name.startswith(("camera-", "delivery"))
        for thread in threading.enumerate()
    )
    if not hangs:
        sys.exit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
