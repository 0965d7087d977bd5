"""`match-server key`: API keys."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings

if TYPE_CHECKING:
    from match_server.schemas.keys import KeyView
    from match_server.settings import Settings

_ROLES = ("admin", "enroller", "searcher", "device", "viewer")


@click.group()
def key() -> None:
    """Make, list and revoke API keys, also while the server runs."""


@key.command("create")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What the key may do.")
@click.option("--name", default="unnamed", help="Whose key it is, to find it again.")
@click.option("--device", help="Role device: the device that uses the key.")
@click.option("--days", type=click.IntRange(1, 36500), help="The key expires after so many days.")
@with_settings
@json_flag
def create_key(
    settings: "Settings",
    role: str,
    name: str,
    device: str | None,
    days: int | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown this once.

    The first key of role admin may come before the server: where there is no data yet, it makes the
    data folder of a new server, and says so. Other commands never do.

    \b
    Example:
      match-server key create --role device --device front-door --data-dir /var/lib/muster
    """
    from pydantic import ValidationError

    from match_server.data_folder import NoData, is_service_installed
    from match_server.process.bootstrap import open_keys, prepare, require_data
    from match_server.schemas.keys import KeyCreate

    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    values = {"role": role, "name": name, "device": device, "expires_at": expires_at}
    try:
        request = KeyCreate.model_validate(values)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(reason) from None
    new_server = False
    try:
        require_data(settings)
    except NoData:
        if role != "admin" or is_service_installed():
            raise
        prepare(settings)
        new_server = True
    with open_keys(settings) as keys:
        made = keys.create(request)
    text = f"{made.key}\n\nRole {made.role}, id {made.id}. Keep it: it is not shown again."
    if new_server:
        text += (
            "\nThere was no server's data here, so this key is the first of a new server: start it "
            f"with\n  {settings.command('serve')}"
        )
    print_result(as_json, made.model_dump(mode="json"), text)


@key.command("list")
@with_settings
@json_flag
def list_keys(settings: "Settings", as_json: bool) -> None:
    """List the keys, without the keys themselves.

    \b
    Example:
      match-server key list --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_keys
    from match_server.schemas.base import Paging

    with open_keys(settings) as keys:
        page = keys.page(Paging(size=1000))
    now = datetime.now(UTC)
    lines = [f"{item.id}  {item.role:9} {_state(item, now):8} {item.name}" for item in page.items]
    value = {"keys": [item.model_dump(mode="json") for item in page.items]}
    print_result(as_json, value, "\n".join(lines) or "There is no key yet.")


@key.command("revoke")
@click.argument("key_id")
@with_settings
@json_flag
def revoke_key(settings: "Settings", key_id: str, as_json: bool) -> None:
    """Revoke the key of that id (see `key list`), from its next request on.

    \b
    Example:
      match-server key revoke 0a1b2c3d4e5f --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_keys

    with open_keys(settings) as keys:
        revoked = keys.revoke(key_id)
    print_result(as_json, revoked.model_dump(mode="json"), f"Key {revoked.id} is revoked.")


def _state(key: "KeyView", now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.role == "device" and key.device is None:
        return "refused"  # made before such a key had to name its device
    return "expired" if key.expires_at is not None and key.expires_at <= now else "valid"
