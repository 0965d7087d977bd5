"""Reading what `match-server import` enrolls: a folder of pictures, or a file of templates."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from match_server.picture_folder import (
    BY_FOLDER,
    Naming,
    pictures_in,
    printable_name,
)
from match_server.schemas.batches import BatchQuery, Verdict
from match_server.services.batches.batches import Batches, Item
from match_server.services.batches.bulk import Resume
from match_server.services.batches.person_folders import PersonFolders
from match_server.services.batches.reader import lines_of, picture_item
from match_server.services.enrollment.collections import Collections
from models.images.formats import FileFormat, format_of
from shared.errors import ConfigurationError, MusterError, TooLarge

_CHUNK = 1024 * 1024
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """The pictures or lines of an import, and how many an earlier run has enrolled."""

    items: Iterator[Item]
    total: int  # pictures, or lines
    done_before: int = 0
    resume: Resume | None = None


class Imports:
    """Plans and runs imports from this machine's files."""

    def __init__(self, collections: Collections, batches: Batches, max_picture_bytes: int) -> None:
        self._collections = collections
        self._batches = batches
        self._max_bytes = max_picture_bytes

    def plan(
        self,
        collection: str,
        source: Path,
        *,
        again: bool,
        naming: Naming = BY_FOLDER,
    ) -> Plan:
        """Plan the import of a folder of pictures, a picture or an NDJSON file.

        A file of templates is recognised by its content: lines that an earlier run has written are
        skipped, unless `again`. A picture that was enrolled before is recognised by itself.
        """
        self._collections.get(collection)
        by_option = naming != BY_FOLDER
        if source.is_dir():
            files = list(pictures_in(source))
            if files and not by_option and all(path.parent == source for path in files):
                raise ConfigurationError(
                    f"all files lie in {source} itself, so nothing says whose they are: make a "
                    "folder for each person, or give --by-file-name where the files are named "
                    "after them, or --name where all are of one person"
                )
            return Plan(_pictures(source, files, self._max_bytes, naming), len(files))
        if not source.is_file():
            raise ConfigurationError(f"{source} is neither a folder nor a file")
        kind = _picture_kind(source)
        if kind is not None and by_option:
            return Plan(_pictures(source.parent, [source], self._max_bytes, naming), 1)
        if kind is not None:
            raise ConfigurationError(f"{source} is {kind.name}: give --name to say whose it is")
        if by_option:
            raise ConfigurationError(
                f"--name and --by-file-name are for pictures, and {source} is none that is read"
            )
        digest, lines = _digest_and_lines(source)
        resume = Resume(digest)
        done = 0 if again else min(self._batches.lines_done(collection, resume), lines)
        return Plan(_lines(source, self._max_bytes, done), lines, done, resume)

    def run(self, collection: str, plan: Plan, options: BatchQuery) -> Iterator[Sequence[Verdict]]:
        """Enroll the items of a plan, and yield the verdicts of each transaction after it."""
        return self._batches.run(collection, plan.items, options, plan.resume)


def _pictures(root: Path, files: list[Path], limit: int, naming: Naming) -> Iterator[Item]:
    folders = PersonFolders()
    if naming == BY_FOLDER:
        names = (printable_name(path.relative_to(root)) for path in files)
        folders = PersonFolders(names, separators="/")
    for index, path in enumerate(files):
        name = printable_name(path.relative_to(root))
        try:
            person = naming.person_of(path, root)
            if path.stat().st_size > limit:
                raise TooLarge(f"the picture is larger than {limit} bytes")
            data = path.read_bytes()
        except OSError as error:
            yield Item(index, name, ConfigurationError(f"cannot be read: {error.strerror}"))
        except MusterError as error:
            yield Item(index, name, error)
        else:
            yield folders.checked(picture_item(index, name, person, data))


def _picture_kind(file: Path) -> FileFormat | None:
    """The kind of a picture that is read; None for another file."""
    with file.open("rb") as stream:
        kind = format_of(stream.read(_HEAD_BYTES))
    return None if kind is None or kind.decoder is None else kind


def _lines(source: Path, limit: int, start: int) -> Iterator[Item]:
    with source.open("rb") as stream:
        yield from lines_of(stream, limit, start=start)


def _digest_and_lines(source: Path) -> tuple[bytes, int]:
    digest = hashlib.sha256()
    lines, last = 0, b"\n"
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return digest.digest(), lines + (last != b"\n")
