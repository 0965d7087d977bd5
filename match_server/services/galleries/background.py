"""One thread that keeps the galleries of this process up to date, whether anybody searches or not.

Without it the first search after an import has to apply all of its changes, and a process that
nobody asks keeps the templates of erased persons.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from match_server.db.database import Database
from match_server.services.galleries.galleries import Galleries
from match_server.services.galleries.processes import ProcessReports
from shared.errors import MusterError

log = logging.getLogger(__name__)

_POLL_S: Final = 0.25  # where commits of other processes give no signal
_PAUSE_S: Final = 2.0  # after a failure


class BackgroundFollower:
    """Loads the galleries, applies each change soon after its commit, and reports how far it is."""

    def __init__(self, database: Database, galleries: Galleries, reports: ProcessReports) -> None:
        self._database = database
        self._galleries = galleries
        self._reports = reports
        self._kind = ""
        self._loaded = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def loaded(self) -> bool:
        """Whether the galleries of all collections were loaded, or failed to."""
        return self._loaded.is_set()

    def start(self, kind: str) -> None:
        """Start the thread, in a process of this kind. Call this after a fork, not before."""
        self._kind = kind
        self._thread = threading.Thread(target=self._run, name="follow-galleries", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._stop.set()
        if self._thread is not None:
            self._galleries.interrupt()
            self._database.commit_signal.notify()
            self._thread.join()
            self._thread = None
            self._guarded(self._reports.end)

    def _run(self) -> None:
        self._guarded(self._galleries.warm)
        self._loaded.set()
        while not self._stop.is_set():
            signals = self._database.commit_signal.signals
            if self._guarded(self._follow):
                self._database.commit_signal.wait(signals, _POLL_S)
            else:
                self._stop.wait(_PAUSE_S)

    def _follow(self) -> None:
        self._galleries.follow()
        clean_until = self._galleries.clean_until()
        if clean_until is not None:
            self._reports.report(self._kind, clean_until)

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Take the step; returns whether it worked. Searches try the same again, and say why."""
        try:
            step()
        except MusterError as error:
            log.warning("Failed to follow the change feed", extra={"why": error.message})
        except Exception:  # the next changes must be followed all the same
            log.exception("Failed to follow the change feed")
        else:
            return True
        return False
