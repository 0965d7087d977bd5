"""Extracts single files from wheels, source archives and npm tarballs."""

import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from shared.errors import PackError


def take_members(archive: Path, targets: Mapping[str, Path]) -> None:
    """Writes the members named by the keys of `targets` to its paths, in one pass.

    Only plain files are taken, and only to the paths given: an archive cannot choose where it
    writes. PackError when it is no archive or a member is missing.
    """
    try:
        if zipfile.is_zipfile(archive):
            taken = _from_zip(archive, targets)
        else:
            taken = _from_tar(archive, targets)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise PackError(f"{archive.name} is not a readable archive: {error}") from error
    missing = sorted(targets.keys() - taken)
    if missing:
        raise PackError(f"{archive.name} does not hold {', '.join(missing)}")


def _from_zip(archive: Path, targets: Mapping[str, Path]) -> set[str]:
    taken = set()
    with zipfile.ZipFile(archive) as opened:
        for name in targets.keys() & set(opened.namelist()):
            with opened.open(name) as source, targets[name].open("wb") as target:
                shutil.copyfileobj(source, target)
            taken.add(name)
    return taken


def _from_tar(archive: Path, targets: Mapping[str, Path]) -> set[str]:
    taken = set()
    with tarfile.open(archive) as opened:  # one pass: a compressed tar cannot seek
        for member in opened:
            if member.name in targets and member.isfile():
                source = opened.extractfile(member)
                if source is not None:
                    with source, targets[member.name].open("wb") as target:
                        shutil.copyfileobj(source, target)
                    taken.add(member.name)
            if len(taken) == len(targets):
                break
    return taken
