"""The folder of installed packs and their receipts, `<cache>/<pack>/installed.json`."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.packs.manifest import ModelFile, Pack, Role, Sha256
from shared.commands import shown
from shared.errors import PackError

RECEIPT = "installed.json"


class DamagedReceipt(PackError):
    """The receipt of an installed pack cannot be read, so its files are unknown."""


class Receipt(BaseModel):
    """The record of an installation: manifest entry and checksums of the installed files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pack: Pack
    installed_sha256: dict[str, Sha256]


@dataclass(frozen=True, slots=True)
class InstalledPack:
    """A pack in the cache. It was complete when it was installed."""

    name: str
    folder: Path
    pack: Pack
    installed_sha256: dict[str, str]

    def path(self, file: ModelFile) -> Path:
        return self.folder / file.name

    def file_for(self, role: Role) -> ModelFile:
        """Returns the file for `role`. Raises PackError if the pack has none."""
        file = self.pack.file_for(role)
        if file is None:
            raise PackError(f"the pack {self.name!r} has no {role}")
        return file

    def problems(self) -> list[str]:
        """Reads all files and returns sentences about those that are missing or have changed."""
        problems = []
        for name, expected in self.installed_sha256.items():
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif (actual := sha256_of(path)) != expected:
                problems.append(f"{name} has sha256 {actual}, not {expected} as installed")
        return problems


def default_cache() -> Path:
    """`$MUSTER_MODELS_DIR`, else `muster/models` in the user's cache folder."""
    if chosen := os.environ.get("MUSTER_MODELS_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "muster" / "models"


def installed(name: str, cache: Path | None = None) -> InstalledPack | None:
    """Returns the installed pack of this name, or None. Raises DamagedReceipt."""
    folder = (cache or default_cache()) / name
    receipt_path = folder / RECEIPT
    try:
        receipt = Receipt.model_validate_json(receipt_path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DamagedReceipt(
            f"{receipt_path} is damaged ({type(error).__name__}): pull {name} again"
        ) from error
    return InstalledPack(receipt.name, folder, receipt.pack, receipt.installed_sha256)


def installed_names(cache: Path | None = None) -> list[str]:
    """Returns the names of all installed packs."""
    return sorted(path.parent.name for path in (cache or default_cache()).glob(f"*/{RECEIPT}"))


def require(name: str, cache: Path | None = None) -> InstalledPack:
    """Returns the installed pack. Raises PackError with the command that installs it."""
    pack = installed(name, cache)
    if pack is None:
        raise PackError(
            f"the pack {name!r} is not installed: run `{shown(f'face-models pull {name}')}`"
        )
    return pack


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Holds the lock of a pack: only one process at a time installs it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
