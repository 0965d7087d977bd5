"""`match-server export`, and `import` of its file: a whole server in one file."""

import os
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings
from match_server.commands.progress import progress
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from match_server.settings import Settings

_VARIABLE = "MUSTER_EXPORT_PASSPHRASE"

passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Passphrase of a file of a whole server; else the variable {_VARIABLE}, else none.",
)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@passphrase_file
@click.option("--buckets", is_flag=True, help="Copy photos out of S3 as well.")
@with_settings
@json_flag
def export(
    settings: "Settings", file: Path, passphrase_file: Path | None, buckets: bool, as_json: bool
) -> None:
    """Write the whole server into one FILE, also while it runs.

    Collections, persons, templates, events, keys (their hashes), photos and snapshots: everything
    but the models, the settings and the master keys of encryption at rest. `match-server import`
    reads it, into SQLite or PostgreSQL. With a passphrase the file is encrypted.

    \b
    Examples:
      match-server export muster.export --data-dir /var/lib/muster
      match-server export backup.export --passphrase-file backup.pass --json
    """
    from match_server.backup.exporting import export as run
    from shared.clock import SystemClock

    passphrase = passphrase_from(passphrase_file)
    with progress("Exporting", counts=False) as display:
        done = run(
            settings, SystemClock(), file, passphrase, buckets=buckets, progress=display.update
        )
    lines = [_sums(file, done.rows, done.files)]
    lines += [f"{count} photos stay in {uri}." for uri, count in done.left.items()]
    if done.encrypted_collections:
        names = ", ".join(done.encrypted_collections)
        lines.append(f"Encrypted as they rest: {names}. The new server needs the same key file.")
    if passphrase is None:
        lines.append("The file is not encrypted: it gives its reader your people's templates.")
    if done.missing:
        lines.append(f"{len(done.missing)} photos are missing: {', '.join(done.missing[:10])}")
    print_result(as_json, {"file": str(file), **asdict(done)}, "\n".join(lines))
    if done.missing:
        raise SystemExit(1)


def import_server(
    settings: "Settings",
    file: Path,
    passphrase: Path | None,
    erasures: Path | None,
    storages: Collection[str] = (),
    *,
    as_json: bool,
) -> None:
    """Fills an empty data folder and database with the server in a file of `export`."""
    from match_server.backup.importing import restore
    from match_server.data_folder import make_data_folder
    from match_server.db.database import Database
    from match_server.process.open_services import open_services
    from match_server.services.audit.chain import append_notes
    from match_server.services.privacy.erasure_journal import FILE as JOURNAL
    from match_server.services.privacy.erasure_journal import ErasureJournal
    from shared.clock import SystemClock

    make_data_folder(settings.data_dir)
    if erasures is not None:  # first, so that a killed import does not lose it
        with closing(Database(settings.sqlalchemy_url, append_notes)) as database:
            ErasureJournal(settings.data_dir, database, SystemClock()).merge(erasures)
    size = file.stat().st_size
    with progress("Importing", size, counts=False) as display:
        done = restore(
            settings,
            file,
            passphrase_from(passphrase),
            storages=storages,
            progress=display.update,
        )
    noted = erasures is not None or (settings.data_dir / JOURNAL).is_file()
    before = _erased_before(settings)
    with open_services(settings, create=True):  # erases again, and resets followers
        pass
    again = _erased_before(settings) - before
    text = _sums(file, done.rows, done.files, f", as the server was at {done.at}")
    if again:
        text += f"\n{again} persons in it had been erased since, and are erased again."
    elif not noted:
        text += (
            f"\nPersons erased after {done.at} are in it again. This data folder has no {JOURNAL}: "
            "give that of the server before with --erasures, or erase them again."
        )
    sums = {"erased_again": again, "erasures_known": noted}
    print_result(as_json, {"file": str(file), **asdict(done), **sums}, text)


def _erased_before(settings: "Settings") -> int:
    """Returns the number of certificates of erasure in the database."""
    from sqlalchemy import func, select

    from match_server.db.tables import Erasure
    from match_server.process.bootstrap import open_database
    from match_server.services.lookups import count_of

    with open_database(settings) as database, database.read() as session:
        return count_of(session, select(func.count()).select_from(Erasure))


def passphrase_from(file: Path | None) -> str | None:
    """Returns the passphrase in a file (without its line end), or in the environment."""
    try:
        passphrase = os.environ.get(_VARIABLE) if file is None else file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"the passphrase file {file} cannot be read as text") from None
    if passphrase == "":
        raise ConfigurationError("the passphrase is empty")
    return passphrase


def _sums(file: Path, rows: dict[str, int], files: int, more: str = "") -> str:
    size_mb = file.stat().st_size / 1e6
    return (
        f"{file}, {size_mb:.1f} MB: {rows['collections']} collections, {rows['persons']} persons, "
        f"{rows['templates']} templates, {rows['events']} events, {files} photos{more}."
    )
