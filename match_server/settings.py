"""The server's settings, from a TOML file, `MUSTER_…` variables and options of the command."""

import os
import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from models.images.decoding import PictureLimits
from shared.commands import installed, shown
from shared.encryption import Keyring
from shared.errors import ConfigurationError
from shared.files import readable
from shared.gallery.kernels import usable_processors
from shared.ids import NAME_PATTERN

MIB = 1024 * 1024
_MOST_WORKERS = 4  # by default
_LEAST_PICTURES, _MOST_PICTURES = 2, 8  # at once in a worker: each takes up to 0.3 GiB


class Settings(BaseSettings):
    """All settings. Unknown keys are refused; no secret has a default."""

    model_config = SettingsConfigDict(env_prefix="MUSTER_", extra="forbid", frozen=True)

    data_dir: Path = Field(
        default=Path("muster-data"), description="Folder of database, photos and snapshots."
    )
    database_url: str | None = Field(
        default=None,
        description="postgresql://USER:PASSWORD@HOST/DATABASE; without it an SQLite file in the "
        "data folder.",
        repr=False,  # it may hold a password
    )
    database_connections: int = Field(
        default=20,
        ge=2,
        le=1000,
        description="Connections to PostgreSQL that each process opens at most.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8480, ge=0, le=65535, description="Port; 0 takes a free one.")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Worker processes; default: one for each core and GiB of memory, at most 4.",
    )
    threads: int = Field(default=16, ge=2, le=256, description="Threads of each worker.")
    open_page: bool = Field(
        default=False,
        description="Show the web page without a key, to visitors from this machine only.",
    )
    model_pack: str = Field(default="compact", description="Face models of new collections.")
    model_detector: str | None = Field(
        default=None,
        description="Pack whose detector finds the faces; default: that of MODEL_PACK, or of "
        "`compact` where that has none.",
    )
    encryption_key_file: Path | None = Field(
        default=None,
        description="File with the master keys of encrypted collections; the first one seals.",
    )
    encryption_key: str | None = Field(
        default=None, description="The same keys themselves, in place of the file.", repr=False
    )
    default_collection: str = Field(
        default="default",
        pattern=NAME_PATTERN,
        description="Collection that probes search; created at the first start.",
    )
    max_body_bytes: int = Field(
        default=16 * MIB, ge=1024, description="Largest request body; beyond it 413."
    )
    max_picture_pixels: int = Field(
        default=PictureLimits().max_pixels,
        ge=10_000,
        description="Pixels that are decoded; larger JPEGs are read reduced, others are 413.",
    )
    max_streams: int = Field(
        default=200,
        ge=1,
        le=2000,
        description="Event streams (open live pages, for example) at once in each worker.",
    )
    client_timeout_s: int = Field(
        default=10,
        ge=1,
        le=600,
        description="Longest wait for a client to send a request or to take the response, and a "
        "second more for each KiB of a large one.",
    )
    broker: str = Field(
        default="mqtt://127.0.0.1:1883", description="MQTT broker of `match-server ingest`."
    )
    broker_username: str | None = Field(default=None, description="User name at the broker.")
    broker_password: str | None = Field(
        default=None, description="Password at the broker.", repr=False
    )
    broker_ca_file: Annotated[Path | None, AfterValidator(readable)] = Field(
        default=None,
        description="PEM file of the authority that signed the broker's certificate, for mqtts:// "
        "where no public one did.",
    )
    unsigned_messages: Literal["accept", "refuse"] = Field(
        default="accept",
        description="What `ingest` does with messages of devices that never signed one: `refuse` "
        "unless all clients of the broker are trusted.",
    )
    ingest_client_id: str = Field(
        default="muster-ingest",
        pattern=NAME_PATTERN,
        description="MQTT client id; each ingest process needs its own.",
    )
    public_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="Address of this server for the boxes; it is in QR pictures.",
    )
    public_certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM) shown at that address, if no public authority signed it: "
        "QR pictures then hold its fingerprint, and boxes trust it.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate and its chain: HTTPS."
    )
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's key.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of an authority: only clients with a certificate of it may connect.",
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Number of reverse proxies in front of the server, whose X-Forwarded-For and "
        "X-Forwarded-Proto headers are trusted.",
    )
    requests_per_minute: int = Field(
        default=60_000,
        ge=0,
        description="Requests of a key, in each worker; 0: no limit. Beyond it 429.",
    )
    bad_keys_per_minute: int = Field(
        default=30,
        ge=0,
        description="Wrong keys from one address, in each worker; 0: no limit. Beyond it 429.",
    )
    rate_limit_store: str = Field(
        default="memory://",
        description="Where requests are counted: memory:// (each worker by itself), or "
        "redis://HOST:PORT for all workers together.",
        repr=False,  # it may hold a password
    )
    audit_searches: Literal["gathered", "each"] = Field(
        default="gathered",
        description="Audit log of searches: one entry a minute for each key, or one for each "
        "search, written before its response.",
    )
    fuse_tracks_s: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="Time for which templates of probes are kept, to be fused with later probes of "
        "the same track; 0: each probe is searched alone.",
    )
    retain_events_days: float = Field(
        default=365, ge=0, description="Sightings are deleted after this time; 0: never."
    )
    retain_snapshots_days: float = Field(
        default=90, ge=0, description="Thumbnails of sightings; 0: as long as the sighting."
    )
    retain_unknown_days: float = Field(
        default=30, ge=0, description="Sightings of faces that nobody matched; 0: as others."
    )
    retain_audit_days: float = Field(
        default=0,
        ge=0,
        description="Entries of the audit log are deleted after this time; 0: never. The rest can "
        "still be verified.",
    )
    erase_expired_after_days: float | None = Field(
        default=None,
        ge=0,
        description="Persons are erased this time after they expired; unset: never.",
    )
    declared_backups: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Your backups of this server, with the days for which you keep each; "
        "certificates of erasure list them.",
    )
    home_assistant: bool = Field(
        default=False,
        description="`ingest` announces each camera to Home Assistant over the broker.",
    )
    home_assistant_prefix: str = Field(
        default="homeassistant",
        pattern=NAME_PATTERN,
        description="First level of discovery topics, as configured in Home Assistant.",
    )
    home_assistant_node: str = Field(
        default="muster",
        pattern="^[a-zA-Z0-9_-]{1,40}$",
        description="Name of this server in Home Assistant; different for each server of a broker.",
    )
    double_take: bool = Field(
        default=False, description="`ingest` publishes live events under Double Take's topics, too."
    )
    metrics_need_key: bool = Field(
        default=False, description="/metrics requires a key that may read (viewer, for example)."
    )
    webhook_timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="Timeout for the receiver of a webhook."
    )
    webhook_private_addresses: bool = Field(
        default=True,
        description="Webhooks may call private addresses and this machine. Link-local ones never.",
    )
    log_level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="What is written to the log: DEBUG, INFO, WARNING or ERROR.",
    )

    _config: Path | None = PrivateAttr(default=None)  # the file of these settings

    def command(self, command: str) -> str:
        """Returns a command of `match-server` for this server's data, from any folder.

        The command of an installed service knows its data folder; other commands name it.
        """
        if installed():
            return shown(f"match-server {command}")
        words = ["match-server", command]
        if self._config is not None:
            words += ["--config", shlex.quote(str(self._config.absolute()))]
        return " ".join([*words, "--data-dir", shlex.quote(str(self.data_dir.absolute()))])

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'muster.db'}"

    @property
    def worker_processes(self) -> int:
        """Returns the number of worker processes: as set, else by the machine."""
        if self.workers is not None:
            return self.workers
        memory_gib: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return max(1, min(usable_processors(), round(memory_gib), _MOST_WORKERS))

    @property
    def picture_limits(self) -> PictureLimits:
        """Returns the limits for pictures: one for each core, at least two for each worker."""
        cores = usable_processors() // self.worker_processes
        return PictureLimits(
            max_bytes=self.max_body_bytes,
            max_pixels=self.max_picture_pixels,
            at_once=max(_LEAST_PICTURES, min(cores, _MOST_PICTURES)),
        )

    @property
    def snapshot_limit(self) -> int:
        """Returns how many snapshots a worker sends at once; each takes a thread."""
        return max(1, self.threads // 4)

    def keyring(self) -> Keyring | None:
        """Reads the master keys of encrypted collections; None where none are set.

        Raises ConfigurationError when two sources are set, or the source cannot be read.
        """
        if self.encryption_key_file is not None and self.encryption_key is not None:
            raise ConfigurationError(
                "give encryption_key_file or encryption_key, not both: which one seals?"
            )
        if self.encryption_key_file is not None:
            return Keyring.from_file(self.encryption_key_file)
        if self.encryption_key is not None:
            return Keyring.from_text(self.encryption_key)
        return None


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Returns the settings: defaults < TOML file < environment < `overrides` that are not None.

    Raises ConfigurationError, which names each wrong key.
    """
    if config is not None and not config.is_file():
        raise ConfigurationError(f"the settings file {config} does not exist")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                init_settings,
                env_settings,
                TomlConfigSettingsSource(settings_cls, toml_file=config),
            )

    changes = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = FromFile(**changes)
        settings._config = config
        return settings
    except ValidationError as error:
        wrong = "; ".join(_wrong(item["type"], item["loc"], item["msg"]) for item in error.errors())
        raise ConfigurationError(f"settings: {wrong}") from None
    except ValueError as error:  # TOML that cannot be parsed
        raise ConfigurationError(f"the settings file {config} is not TOML: {error}") from None


def _wrong(kind: str, place: tuple[int | str, ...], message: str) -> str:
    """Returns the error of a setting as a sentence."""
    name = ".".join(map(str, place))
    if kind != "extra_forbidden":
        return f"{name}: {message}"
    near = get_close_matches(name, Settings.model_fields, n=1)
    meant = f"is {near[0]!r} meant?" if near else "`match-server settings` shows all there are"
    return f"there is no setting {name!r}; {meant}"
