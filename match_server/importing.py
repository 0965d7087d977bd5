"""`match-server import`: a folder of pictures, or a file of templates, into a collection."""

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from match_server.api.uploads import lines_of, picture_item
from match_server.prepare import prepare
from match_server.schemas.batches import BatchQuery, BatchVerdict
from match_server.services.people.batches import Item
from match_server.services.people.bulk import Resume
from match_server.services.wiring import Services, build_services
from match_server.settings import Settings
from shared.errors import ConfigurationError, MusterError, TooLarge

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be imported, and how much of it a run before this one has done."""

    items: Iterator[Item]
    total: int  # pictures, or lines
    done_before: int = 0
    resume: Resume | None = None


@contextmanager
def opened(settings: Settings) -> Iterator[Services]:
    """The services over a prepared data folder, also while a server runs over it."""
    prepare(settings)
    services = build_services(settings)
    services.first_start()
    gc.freeze()  # else all that has been loaded is looked through, again and again
    try:
        yield services
    finally:
        services.close()


def plan(services: Services, collection: str, source: Path, *, again: bool) -> Plan:
    """What a folder (a folder a person in it) or an NDJSON file holds.

    A file of templates is known by its content: what a run before this one has written is passed
    over, unless `again`. Pictures need no such note, as each is recognised by itself.
    """
    services.collections.get(collection)
    limit = services.settings.max_body_bytes
    if source.is_dir():
        files = list(pictures_in(source))
        return Plan(_pictures(source, files, limit), len(files))
    if not source.is_file():
        raise ConfigurationError(f"{source} is neither a folder nor a file")
    digest, lines = _digest_and_lines(source)
    resume = Resume(digest)
    done = 0 if again else min(services.bulk.lines_done(collection, resume), lines)
    return Plan(_lines(source, limit, done), lines, done, resume)


def run(
    services: Services, collection: str, planned: Plan, options: BatchQuery
) -> Iterator[BatchVerdict]:
    """The verdicts as they are written; stopping between two of them loses none."""
    return services.batches.run(collection, planned.items, options, planned.resume)


def pictures_in(folder: Path) -> Iterator[Path]:
    """All files below a folder in a steady order, without hidden ones. Links to folders end."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place) / name


def _pictures(root: Path, files: list[Path], limit: int) -> Iterator[Item]:
    for index, path in enumerate(files):
        name = path.relative_to(root).as_posix()
        try:
            if path.stat().st_size > limit:
                raise TooLarge(f"the picture is larger than {limit} bytes")
            data = path.read_bytes()
        except OSError as error:
            yield Item(index, name, ConfigurationError(f"cannot be read: {error.strerror}"))
        except MusterError as error:
            yield Item(index, name, error)
        else:
            yield picture_item(index, name, data)


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
