"""Compares the tracks of a film with the people in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_agent.vision.tracker import Track
from tests.benchmarks.edge.scenes import Person

_NEAR = 0.6  # face widths: a track's centre is no further from the face that it follows


@dataclass(slots=True)
class Following:
    """The tracks of each person. Only confirmed tracks count, while their face is seen.

    A track near two faces, as in the moment of crossing, is not counted.
    """

    people: Sequence[Person]
    switches: int = 0  # a track went over from one person to another
    _last: dict[str, int] = field(default_factory=dict)  # track id: the person it followed last
    _pairs: set[tuple[int, str]] = field(default_factory=set)

    def see(self, tracks: Sequence[Track], time_s: float) -> None:
        """Adds the tracks after the frame of stream time `time_s`."""
        seen = [track for track in tracks if track.confirmed and track.row is not None]
        if not seen or not self.people:
            return
        places = np.array([one.way(time_s) for one in self.people])
        for track in seen:
            x1, y1, x2, y2 = track.box
            apart = np.hypot(places[:, 0] - (x1 + x2) / 2, places[:, 1] - (y1 + y2) / 2)
            near = np.flatnonzero(apart <= _NEAR * places[:, 2])
            if len(near) == 1:
                self._follow(track.track_id, int(near[0]))

    def _follow(self, track_id: str, person: int) -> None:
        self.switches += self._last.get(track_id, person) != person
        self._last[track_id] = person
        self._pairs.add((person, track_id))

    @property
    def followed(self) -> int:
        """The number of people with a track."""
        return len({person for person, _ in self._pairs})

    @property
    def most_tracks(self) -> int:
        """The number of tracks of the person with the most."""
        people = [person for person, _ in self._pairs]
        return max((people.count(person) for person in set(people)), default=0)
