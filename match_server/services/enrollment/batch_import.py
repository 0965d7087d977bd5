"""`match-server import`: a folder of pictures, or a file of templates, into a collection."""

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from match_server.container import Services, build_services
from match_server.picture_folder import BY_FOLDER, Naming, pictures_in, printable_name
from match_server.process.bootstrap import prepare, require_data
from match_server.schemas.batches import BatchQuery, BatchVerdict
from match_server.services.enrollment.batch_reader import lines_of, picture_item
from match_server.services.enrollment.batches import Item
from match_server.services.enrollment.bulk import Resume
from match_server.services.enrollment.folder_persons import PersonFolders
from match_server.settings import Settings
from models.images.formats import FileFormat, format_of
from shared.errors import ConfigurationError, MusterError, TooLarge

_CHUNK = 1024 * 1024
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be imported, and how much of it a run before this one has done."""

    items: Iterator[Item]
    total: int  # pictures, or lines
    done_before: int = 0
    resume: Resume | None = None


@contextmanager
def opened(settings: Settings, *, create: bool = False) -> Iterator[Services]:
    """The services of a server that exists, also while it runs.

    Raises NoData where there is none, unless it is to be created.
    """
    if create:
        prepare(settings)
    else:
        require_data(settings)
    services = build_services(settings)
    services.first_start()
    gc.freeze()  # else all that has been loaded is looked through, again and again
    try:
        yield services
    finally:
        services.close()


def plan(
    services: Services,
    collection: str,
    source: Path,
    *,
    again: bool,
    naming: Naming = BY_FOLDER,
) -> Plan:
    """What a folder of pictures, a picture or an NDJSON file holds.

    A file of templates is known by its content: what a run before this one has written is passed
    over, unless `again`. Pictures need no such note, as each is recognised by itself.
    """
    services.collections.get(collection)
    limit = services.settings.max_body_bytes
    named = naming != BY_FOLDER
    if source.is_dir():
        files = list(pictures_in(source))
        if files and not named and all(path.parent == source for path in files):
            raise ConfigurationError(
                f"all files lie in {source} itself, so nothing says whose they are: make a folder "
                "for each person, or give --by-file-name where the files are named after them, or "
                "--name where all are of one person"
            )
        return Plan(_pictures(source, files, limit, naming), len(files))
    if not source.is_file():
        raise ConfigurationError(f"{source} is neither a folder nor a file")
    kind = _picture_kind(source)
    if kind is not None and named:
        return Plan(_pictures(source.parent, [source], limit, naming), 1)
    if kind is not None:
        raise ConfigurationError(f"{source} is {kind.name}: give --name to say whose it is")
    if named:
        raise ConfigurationError(
            f"--name and --by-file-name are for pictures, and {source} is none that is read"
        )
    digest, lines = _digest_and_lines(source)
    resume = Resume(digest)
    done = 0 if again else min(services.bulk.lines_done(collection, resume), lines)
    return Plan(_lines(source, limit, done), lines, done, resume)


def run(
    services: Services, collection: str, planned: Plan, options: BatchQuery
) -> Iterator[BatchVerdict]:
    """The verdicts as they are written; stopping between two of them loses none."""
    return services.batches.run(collection, planned.items, options, planned.resume)


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
