"""The number of connections of each worker, in memory that the workers of a server share."""

import mmap
from typing import Any

_PLACES = 256  # more than there are workers at once


class ConnectionCounts:
    """Made before the workers start; each of them has a place of its own."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("I")  # plus one; 0: no worker

    def put(self, worker: Any, count: int) -> None:
        self._counts[worker.age % _PLACES] = count + 1

    def forget(self, worker: Any) -> None:
        """Frees the place of a worker that has ended."""
        self._counts[worker.age % _PLACES] = 0

    def least(self) -> int:
        """Returns the count of the worker with the fewest connections."""
        return min((count for count in self._counts.tolist() if count), default=1) - 1
