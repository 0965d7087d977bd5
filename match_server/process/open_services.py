"""The services of a server, opened for a command; the server may run at the same time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from match_server.container import Services, build_services
from match_server.process.bootstrap import prepare, require_data
from match_server.settings import Settings


@contextmanager
def open_services(settings: Settings, *, create: bool = False) -> Iterator[Services]:
    """Opens the services of an existing server, and closes them at the end.

    With `create`, a missing data folder and database are created. Raises NoData otherwise.
    """
    if create:
        prepare(settings)
    else:
        require_data(settings)
    services = build_services(settings)
    services.first_start()
    gc.freeze()  # the collector need not look through the loaded modules again and again
    try:
        yield services
    finally:
        services.close()
