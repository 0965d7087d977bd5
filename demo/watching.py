"""Follows the server's live stream of sightings."""

import json
import threading
from collections.abc import Callable

import requests

from demo.verdict import Event


class Watcher(threading.Thread):
    """Calls `tell` with each sighting that the server streams, new or updated, until closed."""

    def __init__(self, url: str, key: str, tell: Callable[[Event], None]) -> None:
        super().__init__(name="watcher", daemon=True)
        self._tell = tell
        self._stream = requests.get(
            f"{url}/v1/events/stream",
            headers={"Authorization": f"Bearer {key}"},
            stream=True,
            timeout=(10, 60),
        )
        self._stream.raise_for_status()

    def run(self) -> None:
        try:
            for line in self._stream.iter_lines(chunk_size=1, decode_unicode=True):
                field, _, value = line.partition(": ")
                if field == "data":
                    self._tell(json.loads(value))
        except (requests.RequestException, AttributeError):
            pass  # the server, or this watcher, was closed: nothing more will be seen

    def close(self) -> None:
        self._stream.close()
