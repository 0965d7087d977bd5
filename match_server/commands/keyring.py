"""The master keys of encrypted collections."""

import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress as Bar

from match_server.commands.options import answer, data_dir, json_flag
from match_server.settings import load_settings
from shared.encryption import Key, Keyring
from shared.errors import ConfigurationError

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
        answer(as_json, {"id": key.id.hex(), "key": key.text}, key.text)
        return
    _write_new(file, [key])
    text = f"{file} holds the key {key.id.hex()}; set MUSTER_ENCRYPTION_KEY_FILE={file}\n{_KEEP}"
    answer(as_json, {"id": key.id.hex(), "file": str(file)}, text)


@keyring.command("list")
@data_dir
@json_flag
@click.pass_obj
def list_keys(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """List the master keys by their ids, with how much is sealed with each.

    A key that seals nothing is needed for backups from before its rotation only.

    \b
    Example:
      match-server keyring list --data-dir /var/lib/muster
    """
    from match_server.process.open_services import open_services

    settings = load_settings(config, **options)
    ring = settings.keyring()
    with open_services(settings) as services:
        used = {one.master_id: one for one in services.rotation.masters()}
        unfinished = services.rotation.unfinished()
    given = [key.id.hex() for key in ring] if ring is not None else []
    keys = [
        {
            "id": key_id,
            "given": key_id in given,
            "current": given[:1] == [key_id],
            "data_keys": used[key_id].data_keys if key_id in used else 0,
            "secrets": used[key_id].secrets if key_id in used else 0,
        }
        for key_id in [*given, *sorted(used.keys() - set(given))]
    ]
    lines = [
        f"{one['id']}  {one['data_keys']} data keys, {one['secrets']} secrets"
        f"{'  seals' if one['current'] else ''}{'' if one['given'] else '  MISSING'}"
        for one in keys
    ]
    if unfinished:
        again = settings.command("keyring rotate --data")
        lines.append(f"A rotation of the data is not finished: {again}")
    found = {"keys": keys, "data_unfinished": unfinished}
    answer(as_json, found, "\n".join(lines) or "There is no master key, and none is needed.")


@keyring.command("rotate")
@click.option("--data", is_flag=True, help="Encrypt templates and photos anew, too.")
@data_dir
@json_flag
@click.pass_obj
def rotate(config: Path | None, /, data: bool, as_json: bool, **options: Any) -> None:
    """Take a new master key into use, also while the server runs.

    The new key is put before the others in the key file; all data keys are sealed with it. With
    keys from the environment, restart the server with the new one before the old, then call this.
    With --data every template, photo and thumbnail is encrypted with new data keys as well: what
    is interrupted goes on when it is called again.

    \b
    Examples:
      match-server keyring rotate --data-dir /var/lib/muster
      match-server keyring rotate --data --json
    """
    from match_server.process.open_services import open_services

    settings = load_settings(config, **options)
    ring = settings.keyring()
    if ring is None:
        raise ConfigurationError(
            "no master key was given: set MUSTER_ENCRYPTION_KEY_FILE or MUSTER_ENCRYPTION_KEY"
        )
    with open_services(settings) as services:
        rotation = services.rotation
        current = ring.current.id.hex()
        behind = any(one.master_id != current for one in rotation.masters())
        if settings.encryption_key_file and not behind and not (data and rotation.unfinished()):
            current = _put_first(settings.encryption_key_file, Key.new(), ring).id.hex()
        sealed = rotation.rewrap()
        done = []
        if data:
            with Bar(console=Console(stderr=True), disable=as_json) as bar:
                tasks: dict[str, Any] = {}

                def tell(progress: Any) -> None:
                    name = progress.collection
                    if name not in tasks:
                        tasks[name] = bar.add_task(name)
                    bar.update(
                        tasks[name], completed=progress.done, total=progress.done + progress.left
                    )

                done = rotation.renew_data(tell)
    collections = [
        {
            "collection": one.collection,
            "renewed": one.done,
            "left": one.left,
            "damaged": one.damaged,
        }
        for one in done
    ]
    lines = [
        f"{current} seals now; {sealed.data_keys} data keys and {sealed.secrets} secrets (of "
        f"webhooks, and of what is wanted of boxes) were sealed anew. {_KEEP}"
    ]
    lines += [
        f"{one.collection}: {one.done} templates and files encrypted anew"
        + (f", {one.left} could not be" if one.left else "")
        for one in done
    ]
    value = {
        "master": current,
        "data_keys": sealed.data_keys,
        "secrets": sealed.secrets,
        "collections": collections,
    }
    answer(as_json, value, "\n".join(lines))
    if any(one.left for one in done):
        raise SystemExit(1)


def _put_first(file: Path, key: Key, ring: Keyring) -> Key:
    """A key file with one more key before the others, in one step; answers the key.

    Comments in the file are lost: where each key came from is written instead.
    """
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)  # of a rotation that was interrupted here
    _write_new(beside, [key, *ring])
    before = file.stat()
    beside.chmod(before.st_mode & 0o777)
    os.chown(beside, before.st_uid, before.st_gid)  # the server reads it as its own user
    beside.replace(file)
    _sync(file.parent)
    return key


def _write_new(file: Path, keys: list[Key]) -> None:
    text = "# Master keys of Muster: the first one seals, all open.\n" + "".join(
        f"{key.text}  # {key.id.hex()}\n" for key in keys
    )
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError:
        raise ConfigurationError(
            f"{file} is there already, and its keys may be needed: choose another name, or add a "
            "key to it with `match-server keyring rotate`"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
