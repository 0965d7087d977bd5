"""Compares the server's sightings with the people in the films."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo.cast import DRIVER, ENROLLED, STRANGER, WALKS, LaneName
from demo.film import lane_of

LOBBY, CAR = "lobby", "car"

Event = dict[str, Any]  # an item of GET /v1/events


@dataclass(frozen=True, slots=True)
class Verdict:
    """The expected people, the recognised ones, and all errors."""

    expected: list[str]
    identified: list[str]
    misidentified: list[dict[str, str]]  # somebody taken for another: true name, given name
    missed: list[str]
    strangers_seen: int  # sightings of people who are enrolled nowhere
    strangers_unknown: int  # of these, the ones that were called unknown

    @property
    def passed(self) -> bool:
        """Whether all were recognised, none as another, and all strangers were seen as unknown."""
        return (
            not self.missed
            and not self.misidentified
            and 0 < self.strangers_seen == self.strangers_unknown
        )


def judge(events: Sequence[Event]) -> Verdict:
    """Compares sightings with the films. The person of each lane of the lobby film is known."""
    lanes = people_by_lane()
    expected = [person.name for person in ENROLLED]
    identified: set[str] = set()
    misidentified: list[dict[str, str]] = []
    strangers = unknown = 0
    for event in events:
        truth = DRIVER.name if event["camera"] == CAR else lanes[_lane(event)]
        name = event["person"]["name"] if event["decision"] == "identified" else None
        if truth == STRANGER:
            strangers += 1
            unknown += name is None
        if name == truth:
            identified.add(truth)
        elif name is not None:
            misidentified.append({"is": truth, "called": name, "camera": event["camera"]})
    missed = [person for person in expected if person not in identified]
    named = [name for name in expected if name in identified]
    return Verdict(expected, named, misidentified, missed, strangers, unknown)


def people_by_lane() -> dict[LaneName, str]:
    """Returns the person of each lane of the lobby film. Raises ValueError for a shared lane."""
    lanes: dict[LaneName, str] = {}
    for walk in WALKS:
        if lanes.setdefault(walk.lane, walk.name) != walk.name:
            raise ValueError(f"{walk.name} and {lanes[walk.lane]} share the lane {walk.lane!r}")
    return lanes


def _lane(event: Event) -> LaneName:
    left, _, right, _ = event["box"]
    return lane_of((left + right) / 2)
