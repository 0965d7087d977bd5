"""How the agent's process ends while a library may still hold one of its threads."""

import logging
import os
import sys
import threading
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """Ends the process with `status`; everything that must last is on the disk by now.

    A camera that hangs is left to its thread, inside OpenCV. When such a thread comes back while
    the interpreter shuts down, Python unwinds it through C++ that does not allow it, and the
    process aborts: a clean stop would look like a crash. So with such a thread about, nothing is
    shut down, the process just ends.
    """
    held = any(
        thread.daemon and thread.name.startswith(("camera-", "delivery"))
        for thread in threading.enumerate()
    )
    if not held:
        sys.exit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
