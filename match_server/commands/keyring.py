"""`match-server keyring`: the master keys of encrypted collections."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings
from match_server.commands.progress import progress
from shared.encryption import Key, Keyring
from shared.errors import ConfigurationError
from shared.files import durable_file

if TYPE_CHECKING:
    from match_server.services.key_rotation import Progress
    from match_server.settings import Settings

_KEEP = "Keep a copy apart from the server and its backups: without it the data cannot be read."


@click.group()
def keyring() -> None:
    """Make, list and rotate the master keys of encrypted collections."""


@keyring.command("new")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key file to make, readable by you alone; without it the key is printed.",
)
@json_flag
def new_key(file: Path | None, as_json: bool) -> None:
    """Make the first master key.

    \b
    Examples:
      match-server keyring new --file /etc/muster/master.keys
      export MUSTER_ENCRYPTION_KEY=$(match-server keyring new)
    """
    key = Key.new()
    if file is None:
        print_result(as_json, {"id": key.id.hex(), "key": key.text}, key.text)
        return
    _write_new(file, [key])
    text = f"{file} holds the key {key.id.hex()}; set MUSTER_ENCRYPTION_KEY_FILE={file}\n{_KEEP}"
    print_result(as_json, {"id": key.id.hex(), "file": str(file)}, text)


@keyring.command("list")
@with_settings
@json_flag
def list_keys(settings: "Settings", as_json: bool) -> None:
    """List the master keys by their ids, with how much is encrypted with each.

    A key with which nothing is encrypted is needed for backups from before its rotation only.

    \b
    Example:
      match-server keyring list --data-dir /var/lib/muster
    """
    from match_server.process.open_services import open_services

    ring = settings.keyring()
    with open_services(settings) as services:
        used = {master.master_id: master for master in services.rotation.masters()}
        unfinished = services.rotation.unfinished()
    ids = [key.id.hex() for key in ring] if ring is not None else []
    keys = [
        {
            "id": key_id,
            "given": key_id in ids,
            "current": ids[:1] == [key_id],
            "data_keys": used[key_id].data_keys if key_id in used else 0,
            "secrets": used[key_id].secrets if key_id in used else 0,
        }
        for key_id in [*ids, *sorted(used.keys() - set(ids))]
    ]
    lines = [
        f"{key['id']}  {key['data_keys']} data keys, {key['secrets']} secrets"
        f"{'  seals' if key['current'] else ''}{'' if key['given'] else '  MISSING'}"
        for key in keys
    ]
    if unfinished:
        again = settings.command("keyring rotate --data")
        lines.append(f"A rotation of the data is not finished: {again}")
    value = {"keys": keys, "data_unfinished": unfinished}
    text = "\n".join(lines) or "There is no master key, and none is needed."
    print_result(as_json, value, text)


@keyring.command("rotate")
@click.option("--data", is_flag=True, help="Encrypt templates and photos again, too.")
@with_settings
@json_flag
def rotate(settings: "Settings", data: bool, as_json: bool) -> None:
    """Take a new master key into use, also while the server runs.

    The new key is put before the others in the key file; all data keys are encrypted with it. With
    keys from the environment, restart the server with the new one before the old, then call this.
    With --data every template, photo and thumbnail is encrypted with new data keys as well. After
    an interruption, call it again: it goes on from there.

    \b
    Examples:
      match-server keyring rotate --data-dir /var/lib/muster
      match-server keyring rotate --data --json
    """
    from match_server.process.open_services import open_services

    ring = settings.keyring()
    if ring is None:
        raise ConfigurationError(
            "no master key was given: set MUSTER_ENCRYPTION_KEY_FILE or MUSTER_ENCRYPTION_KEY"
        )
    with open_services(settings) as services:
        rotation = services.rotation
        current = ring.current.id.hex()
        behind = any(master.master_id != current for master in rotation.masters())
        if settings.encryption_key_file and not behind and not (data and rotation.unfinished()):
            current = _put_first(settings.encryption_key_file, Key.new(), ring).id.hex()
        sealed = rotation.rewrap()
        done = []
        if data:
            with progress("Encrypting") as display:

                def report(step: "Progress") -> None:
                    display.update(step.done, step.done + step.left, note=step.collection)

                done = rotation.renew_data(report)
    collections = [
        {
            "collection": result.collection,
            "renewed": result.done,
            "left": result.left,
            "damaged": result.damaged,
        }
        for result in done
    ]
    lines = [
        f"{current} seals now; {sealed.data_keys} data keys and {sealed.secrets} secrets (of "
        f"webhooks, and of the configurations of boxes) were encrypted again. {_KEEP}"
    ]
    lines += [
        f"{result.collection}: {result.done} templates and files encrypted again"
        + (f", {result.left} could not be" if result.left else "")
        for result in done
    ]
    value = {
        "master": current,
        "data_keys": sealed.data_keys,
        "secrets": sealed.secrets,
        "collections": collections,
    }
    print_result(as_json, value, "\n".join(lines))
    if any(result.left for result in done):
        raise SystemExit(1)


def _put_first(file: Path, key: Key, ring: Keyring) -> Key:
    """Writes the key file again with one more key before the others. Returns that key.

    Comments in the file are lost: the id of each key is written instead.
    """
    before = file.stat()
    try:
        with durable_file(file, mode=before.st_mode & 0o777) as out:
            os.fchown(out.fileno(), before.st_uid, before.st_gid)  # of the server, if this is root
            out.write(_text([key, *ring]))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None
    return key


def _write_new(file: Path, keys: list[Key]) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(_text(keys))
            out.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise ConfigurationError(
            f"{file} is there already, and its keys may be needed: choose another name, or add a "
            "key to it with `match-server keyring rotate`"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None


def _text(keys: list[Key]) -> bytes:
    lines = "".join(f"{key.text}  # {key.id.hex()}\n" for key in keys)
    return f"# Master keys of Muster: the first one seals, all open.\n{lines}".encode()
