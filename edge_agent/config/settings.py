"""Settings of the edge agent, each with its default."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from edge_agent.config.camera import CameraSettings
from edge_agent.config.fleet import FleetSettings
from edge_agent.config.secrets import read_secret
from edge_agent.config.section import Section
from edge_agent.config.timeouts import Timeouts
from shared.errors import ConfigurationError
from shared.files import readable
from shared.wire.messages import Name

_DEFAULT_TIMEOUTS = Timeouts()
_KEY_VARIABLE = "MUSTER_SERVER_KEY"
_PASSWORD_VARIABLE = "MUSTER_BROKER_PASSWORD"  # noqa: S105  # the variable's name, not a password


def _http_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("a server's address is https://HOST[:PORT], or http://… on a safe network")
    return url


class ModelSettings(Section):
    """The model pack, and what replaces parts of it."""

    pack: str = "compact"
    detector: str | None = None
    closer: str | None = None
    threads: int = Field(default=1, ge=1, le=64)
    embedder_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class ShotSettings(Section):
    """How tracks are kept and which of their shots become probes. Scores are `Quality.score`."""

    gate: Literal["doorway", "passport", "off"] = "doorway"
    first_wait_s: float = Field(default=0.2, ge=0, le=10)  # the first probe waits for a better shot
    margin: float = Field(default=0.1, ge=0, le=1)  # a later probe has a score better by this
    max_probes: int = Field(default=4, ge=1, le=100)  # of one track
    fuse: int = Field(default=3, ge=1, le=16)  # a template is the mean of so many shots
    keep_missed_s: float = Field(default=2.5, ge=0, le=30)  # a face may be hidden for so long
    thumbnails: bool = True


class LivenessSettings(Section):
    """How the weak liveness score is used: the median over several frames of a track.

    `off` does not run the model; `report` sends the score with the probe; `refuse` makes no probe
    of a track while the median is below `threshold`.
    """

    policy: Literal["off", "report", "refuse"] = "report"
    threshold: float = Field(default=0.3, ge=0, le=1)


class OutboxSettings(Section):
    """How much may wait on the disk, and for how long."""

    max_mib: int = Field(default=256, ge=1, le=1_048_576)
    max_age_days: float = Field(default=30.0, gt=0, le=3650)


class GallerySettings(Section):
    """The device's own gallery (docs/edge-gallery.md). It follows the change feed of [server]."""

    mode: Literal["off", "when_away", "always"] = "off"
    collections: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = ("default",)
    max_age_h: float = Field(default=72.0, gt=0, le=24 * 366)
    max_mib: int = Field(default=512, ge=1, le=1_048_576)
    key_file: Path | None = None
    hook: Annotated[tuple[str, ...], Field(max_length=32)] = ()


class ServerSettings(Section):
    """Delivery over HTTP. The key stands in `key_file` or in MUSTER_SERVER_KEY, never here."""

    url: Annotated[str, AfterValidator(_http_address)]
    key_file: Path | None = None
    ca_file: Annotated[Path | None, AfterValidator(readable)] = None
    connect_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.connect_s, ge=0.1, le=120)
    answer_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.silence_s, ge=0.5, le=600)
    request_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.request_s, ge=1, le=3600)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.request_timeout_s < self.answer_timeout_s:
            raise ValueError(
                "request_timeout_s is for a whole request: it cannot be shorter than"
                f" answer_timeout_s ({self.answer_timeout_s:g})"
            )
        return self

    @property
    def timeouts(self) -> Timeouts:
        return Timeouts(self.connect_timeout_s, self.answer_timeout_s, self.request_timeout_s)

    def key(self) -> str:
        """The API key. Raises ConfigurationError where there is none."""
        secret = read_secret(self.key_file, _KEY_VARIABLE, blanks=False)
        if secret is None:
            raise ConfigurationError(
                f"the server needs a key: set server.key_file or {_KEY_VARIABLE}"
                " (`edge-agent enroll-device` fetches one)"
            )
        return secret


class BrokerSettings(Section):
    """Delivery over MQTT. The password stands in `password_file` or in MUSTER_BROKER_PASSWORD."""

    url: str
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    resend_s: float = Field(default=15.0, ge=1, le=600)

    def password(self) -> str | None:
        """Raises ConfigurationError where its file cannot be read."""
        return read_secret(self.password_file, _PASSWORD_VARIABLE)


class AgentSettings(Section):
    """All settings of one agent."""

    device: Name = Field(default_factory=lambda: default_device())
    site: Name = "main"
    state_dir: Path = Field(default_factory=lambda: default_state_dir())
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    cameras: Annotated[tuple[CameraSettings, ...], Field(min_length=1, max_length=64)]
    models: ModelSettings = ModelSettings()
    shots: ShotSettings = ShotSettings()
    liveness: LivenessSettings = LivenessSettings()
    outbox: OutboxSettings = OutboxSettings()
    gallery: GallerySettings = GallerySettings()
    fleet: FleetSettings = FleetSettings()
    server: ServerSettings | None = None
    broker: BrokerSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [camera.name for camera in self.cameras]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cameras are called {twice[0]!r}; every camera has its own name")
        if self.gallery.mode != "off" and self.server is None:
            raise ValueError(
                "gallery.mode: a gallery follows the server over HTTP, also where probes go "
                "through a broker: give [server] too"
            )
        return self

    @property
    def outbox_path(self) -> Path:
        """One outbox for each device: it holds the device's sequence numbers."""
        return self.state_dir / f"outbox-{self.device}.db"

    def gallery_path(self, collection: str) -> Path:
        """The encrypted copy of one collection."""
        return self.state_dir / f"gallery-{self.device}-{collection}.db"

    @property
    def ledger_path(self) -> Path:
        return self.state_dir / f"ledger-{self.device}.db"


def default_device() -> str:
    """The host name, with "-" for each character that a topic does not allow."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")[:63]
    return name or "box"


def default_state_dir() -> Path:
    """The folder that systemd sets in STATE_DIRECTORY, else one in the user's state folder."""
    by_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if by_systemd:
        return Path(by_systemd)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "muster"
