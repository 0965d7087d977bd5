"""Warnings about collections whose threshold is not measured or too low."""

import logging

from match_server.schemas.collections import CollectionQuery
from match_server.services.enrollment.collections import Collections

log = logging.getLogger(__name__)

_COLLECTIONS = 1000


class PolicyWarnings:
    """The warnings of the collections' operating points, for the log and for `doctor`."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def lines(self) -> list[str]:
        """One sentence for each collection with a warning."""
        items = self._collections.page(CollectionQuery(size=_COLLECTIONS)).items
        return [
            f"collection {view.name!r}: {view.operating_point.warning}"
            for view in items
            if view.operating_point.warning is not None
        ]

    def log(self) -> None:
        """Write them to the log."""
        for line in self.lines():
            log.warning("%s", line)
