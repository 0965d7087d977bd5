"""MQTT topics of the wire contract, version 1: `muster/v1/<site>/<device>/<kind>`."""

from dataclasses import dataclass
from typing import Literal, Self, get_args

from shared.errors import MalformedInput
from shared.ids import is_name

TopicKind = Literal["probe", "receipt", "status"]

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

    @property
    def probe(self) -> str:
        return f"{_ROOT}/{self.site}/{self.device}/probe"

    @property
    def receipt(self) -> str:
        return f"{_ROOT}/{self.site}/{self.device}/receipt"

    @property
    def status(self) -> str:
        return f"{_ROOT}/{self.site}/{self.device}/status"

    @classmethod
    def parse(cls, topic: str) -> tuple[Self, TopicKind]:
        """The device and kind that a topic names; MalformedInput when it is none of ours."""
        parts = topic.split("/")
        if len(parts) != 5 or "/".join(parts[:2]) != _ROOT or parts[4] not in _KINDS:
            raise MalformedInput(f"{topic!r} is not {_ROOT}/<site>/<device>/<kind>")
        kind: TopicKind = parts[4]  # type: ignore[assignment]  # narrowed by the test above
        return cls(parts[2], parts[3]), kind


def any_device(kind: TopicKind, *, group: str | None = None) -> str:
    """The subscription to one kind from all devices; with `group`, shared among its members."""
    pattern = f"{_ROOT}/+/+/{kind}"
    return pattern if group is None else f"$share/{group}/{pattern}"
