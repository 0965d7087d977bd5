"""MQTT topics of the wire contract, version 1: `muster/v1/<site>/<device>/<kind>`."""

from dataclasses import dataclass
from typing import Literal, Self, get_args

from shared.errors import MalformedInput
from shared.ids import is_name

TopicKind = Literal[
    "probe",  # box → server, QoS 1: a best shot
    "receipt",  # server → box, QoS 1: which probes are stored
    "status",  # retained, last will: whether the box is there
    "track",  # box → all subscribers, QoS 1: a face came into view or left it
    "health",  # box → server: how the box is
    "health/answer",  # server → box: when that came, by the server's clock
    "config/desired",  # server → box, retained
    "config/reported",  # box → server, retained: what it runs with
    "event",  # server → the box and all subscribers: an identification
]

_KINDS: frozenset[str] = frozenset(get_args(TopicKind))
_ROOT = "muster/v1"


@dataclass(frozen=True, slots=True)
class DeviceTopics:
    """The topics of one device at one site; MalformedInput for a name that may not stand there."""

    site: str
    device: str

    def __post_init__(self) -> None:
        for what, name in (("site", self.site), ("device", self.device)):
            if not is_name(name):
                raise MalformedInput(
                    f"{what} {name!r} may hold letters, digits, '_', '.', '-' only, 63 at most"
                )

    def of(self, kind: TopicKind) -> str:
        """The topic of one kind."""
        return f"{_ROOT}/{self.site}/{self.device}/{kind}"

    @property
    def probe(self) -> str:
        return self.of("probe")

    @property
    def receipt(self) -> str:
        return self.of("receipt")

    @property
    def status(self) -> str:
        return self.of("status")

    @classmethod
    def parse(cls, topic: str) -> tuple[Self, TopicKind]:
        """Returns the device and kind of a topic. Raises MalformedInput for an invalid topic."""
        parts = topic.split("/", 4)
        if len(parts) != 5 or "/".join(parts[:2]) != _ROOT or parts[4] not in _KINDS:
            raise MalformedInput(f"{topic!r} is not {_ROOT}/<site>/<device>/<kind>")
        kind: TopicKind = parts[4]  # type: ignore[assignment]  # narrowed by the test above
        return cls(parts[2], parts[3]), kind


def any_device(kind: TopicKind, *, group: str | None = None) -> str:
    """The subscription to one kind from all devices; with `group`, shared among its members."""
    pattern = f"{_ROOT}/+/+/{kind}"
    return pattern if group is None else f"$share/{group}/{pattern}"
