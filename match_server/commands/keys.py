"""API keys."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from match_server.commands.options import answer, data_dir, json_flag
from match_server.settings import load_settings

if TYPE_CHECKING:
    from match_server.schemas.keys import KeyView

_ROLES = ("admin", "enroller", "searcher", "device", "viewer")


@click.group()
def key() -> None:
    """Make, list and revoke API keys, also while the server runs."""


@key.command("create")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What the key may do.")
@click.option("--name", default="unnamed", help="Whose key it is, to find it again.")
@click.option("--device", help="Role device: the one that the key speaks for.")
@click.option("--days", type=click.IntRange(1, 36500), help="The key is worth nothing after that.")
@data_dir
@json_flag
@click.pass_obj
def create_key(
    config: Path | None,
    /,
    role: str,
    name: str,
    device: str | None,
    days: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a key. It is shown this once.

    The first key of role admin may come before the server: where there is no data yet, it makes the
    data folder of a new server, and says so. Other commands never do.

    \b
    Example:
      match-server key create --role device --device front-door --data-dir /var/lib/muster
    """
    from match_server.data_folder import NoData, is_service_installed
    from match_server.process.bootstrap import open_keys, prepare, require_data
    from match_server.schemas.keys import KeyCreate

    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    given = {"role": role, "name": name, "device": device, "expires_at": expires_at}
    try:
        wanted = KeyCreate.model_validate(given)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(reason) from None
    settings = load_settings(config, **options)
    new_server = False
    try:
        require_data(settings)
    except NoData:
        if role != "admin" or is_service_installed():
            raise
        prepare(settings)
        new_server = True
    with open_keys(settings) as keys:
        made = keys.create(wanted)
    text = f"{made.key}\n\nRole {made.role}, id {made.id}. Keep it: it is not shown again."
    if new_server:
        text += (
            "\nThere was no server's data here, so this key is the first of a new server: start it "
            f"with\n  {settings.command('serve')}"
        )
    answer(as_json, made.model_dump(mode="json"), text)


@key.command("list")
@data_dir
@json_flag
@click.pass_obj
def list_keys(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """List the keys, without the keys themselves.

    \b
    Example:
      match-server key list --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_keys
    from match_server.schemas.base import Paging

    with open_keys(load_settings(config, **options)) as keys:
        page = keys.page(Paging(size=1000))
    now = datetime.now(UTC)
    lines = [f"{one.id}  {one.role:9} {_state(one, now):8} {one.name}" for one in page.items]
    found = [one.model_dump(mode="json") for one in page.items]
    answer(as_json, {"keys": found}, "\n".join(lines) or "There is no key yet.")


@key.command("revoke")
@click.argument("key_id")
@data_dir
@json_flag
@click.pass_obj
def revoke_key(config: Path | None, /, key_id: str, as_json: bool, **options: Any) -> None:
    """Revoke the key of that id (see `key list`), from its next request on.

    \b
    Example:
      match-server key revoke 0a1b2c3d4e5f --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_keys

    with open_keys(load_settings(config, **options)) as keys:
        revoked = keys.revoke(key_id)
    answer(as_json, revoked.model_dump(mode="json"), f"Key {revoked.id} is worth nothing now.")


def _state(one: "KeyView", now: datetime) -> str:
    if one.revoked_at is not None:
        return "revoked"
    if one.role == "device" and one.device is None:
        return "refused"  # made before such a key had to name its device
    return "expired" if one.expires_at is not None and one.expires_at <= now else "valid"
