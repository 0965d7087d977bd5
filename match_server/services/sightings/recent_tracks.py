"""The recent tracks of one camera, with which a new track is compared."""

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from shared.wire.messages import ProbeMessage
from shared.wire.template import Template

MOST_NEARBY = 32
"""The newest stored tracks of a camera that are compared."""


class RecentTracks:
    """Recent tracks with their templates as rows of one array."""

    def __init__(self, dimension: int) -> None:
        self._places: dict[str, int] = {}  # row of each track
        self._captured: list[datetime] = []
        self._rows = np.zeros((MOST_NEARBY, dimension), np.float32)  # the first ones are in use

    def put(self, track_id: str, row: NDArray[np.float32], captured_at: datetime) -> None:
        """Keep the newest state of a track."""
        place = self._places.setdefault(track_id, len(self._captured))
        if place == len(self._captured):
            self._captured.append(captured_at)
        if place == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._captured[place] = captured_at
        self._rows[place] = row

    def most_alike(
        self, message: ProbeMessage, template: Template, limit: float, window: timedelta
    ) -> str | None:
        """The most similar other track of the same time, if its similarity reaches the limit."""
        similarities = (self._rows[: len(self._captured)] @ template.vector).tolist()
        alike = [
            (similarity, track_id)
            for track_id, similarity, captured_at in zip(
                self._places, similarities, self._captured, strict=True
            )
            if similarity >= limit
            and track_id != message.track_id
            and abs(message.captured_at - captured_at) <= window
        ]
        return max(alike)[1] if alike else None
