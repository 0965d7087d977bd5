"""`match-server device`: inviting boxes by a code, their state, and the galleries they hold."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings
from shared.errors import NotFound

if TYPE_CHECKING:
    from match_server.schemas.feed import FollowerView
    from match_server.services.devices.devices import Devices
    from match_server.services.devices.enrollment_codes import DeviceCodes
    from match_server.services.devices.followers import Followers
    from match_server.settings import Settings


@click.group()
def device() -> None:
    """Invite boxes and show their state, also while the server runs."""


@device.command("code", short_help="Make a code with which a box fetches its key.")
@click.option("--device", "name", required=True, help="The box's name; a new name makes a new box.")
@click.option("--site", default="main", show_default=True, help="Where a new box is.")
@click.option("--collection", help="What a new box's probes search.  [default: the server's]")
@with_settings
@json_flag
def code(settings: "Settings", name: str, site: str, collection: str | None, as_json: bool) -> None:
    """Make a code with which a box fetches its key: once, within 15 minutes.

    With the setting `public_url` the code is shown as a QR picture too, for the box's camera.

    \b
    Example:
      match-server device code --device entrance-box --data-dir /var/lib/muster
    """
    from pydantic import ValidationError

    from match_server.schemas.devices import DeviceCreate

    try:
        request = DeviceCreate(name=name, site=site, collection=collection)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise click.UsageError(
            f"--{field if field != 'name' else 'device'}: letters, digits, '_', '.', '-' only"
        ) from None
    with _open_devices(settings) as (_, codes):
        made = codes.make_for_new(request)
    text = f"{made.code}\n\nGood until {made.expires_at:%H:%M} UTC, once. On the box:\n"
    server = settings.public_url or f"http://THIS-SERVER:{settings.port}"
    text += f"  edge-agent enroll-device --server {server} {made.code}"
    if made.invitation is not None:
        text += (
            "\nor show this to its camera and run `edge-agent enroll-device --camera SOURCE`:\n\n"
        )
        text += _qr_of(made.invitation)
    print_result(as_json, made.model_dump(mode="json"), text)


@device.command("list")
@with_settings
@json_flag
def list_devices(settings: "Settings", as_json: bool) -> None:
    """List the boxes with their state.

    \b
    Example:
      match-server device list --data-dir /var/lib/muster
    """
    from match_server.schemas.devices import DeviceQuery

    with _open_devices(settings) as (devices, _):
        page = devices.page(DeviceQuery(size=1000))
    lines = []
    for box in page.items:
        seen = "never" if box.last_seen_at is None else f"{box.last_seen_at:%Y-%m-%d %H:%M:%S} UTC"
        state = "online " if box.online else "offline"
        lines.append(
            f"{state}  {box.name:24} last seen {seen}, {box.sequence.missing} numbers missing, "
            f"configuration {box.config.state}"
        )
    value = {"devices": [box.model_dump(mode="json") for box in page.items]}
    print_result(as_json, value, "\n".join(lines) or "There is no box yet.")


@device.command("gallery", short_help="Choose which templates a box may hold, show what it holds.")
@click.option("--device", "name", required=True, help="The box's name.")
@click.option("--give", metavar="COLLECTION", help="Let it hold this collection's templates.")
@click.option(
    "--group", "groups", multiple=True, help="Only of this group, by name or id; repeatable."
)
@click.option("--names", is_flag=True, help="Send the persons' names to the box as well.")
@click.option("--withdraw", metavar="COLLECTION", help="Take this collection from it.")
@with_settings
@json_flag
def gallery(
    settings: "Settings",
    name: str,
    give: str | None,
    groups: tuple[str, ...],
    names: bool,
    withdraw: str | None,
    as_json: bool,
) -> None:
    """Choose which templates a box may hold to identify people by itself, and show its copies.

    --give replaces an earlier --give of the same collection. A box from which a collection is
    withdrawn deletes it, within a second where it is connected. The box's own agent.toml says
    whether it uses what it may hold: [gallery] mode.

    \b
    Examples:
      match-server device gallery --device entrance-box
      match-server device gallery --device entrance-box --give staff --group "Night shift" --names
      match-server device gallery --device entrance-box --withdraw staff
    """
    from match_server.schemas.feed import FollowerQuery
    from shared.ids import is_name

    if give is None and (groups or names):
        raise click.UsageError("--group and --names go with --give COLLECTION")
    if not is_name(name):
        raise click.UsageError("--device: letters, digits, '_', '.', '-' only")
    if give is not None and give == withdraw:
        raise click.UsageError("the same collection cannot be given and withdrawn")
    with _open_followers(settings) as followers:
        changed = _change(followers, name, give, groups, names, withdraw)
        views = followers.page(FollowerQuery(device=name, size=1000)).items
        text = "\n".join(_line(view) for view in views) or f"{name} may hold nothing."
    if give is not None and changed:
        text += '\nIts agent.toml: [gallery] mode = "when_away" (or "always"), and ' + (
            f'collections = ["{give}"]'
        )
    value = {"galleries": [view.model_dump(mode="json") for view in views]}
    print_result(as_json, value, text)


def _change(
    followers: "Followers",
    name: str,
    give: str | None,
    groups: Sequence[str],
    names: bool,
    withdraw: str | None,
) -> bool:
    """Gives and withdraws collections. Returns whether there was anything to change."""
    from match_server.schemas.feed import GalleriesPut, Granted

    if give is None and withdraw is None:
        return False
    held = {grant.collection: grant for grant in followers.granted(name)}
    if withdraw is not None and held.pop(withdraw, None) is None:
        raise NotFound(f"{name} was not given {withdraw!r}: there is nothing to withdraw")
    if give is not None:
        ids = followers.group_ids(give, groups)
        held[give] = Granted(collection=give, groups=ids, names=names)
    followers.put(name, GalleriesPut(galleries=list(held.values())))
    return True


def _line(view: "FollowerView") -> str:
    whom = f"{len(view.groups)} of its groups" if view.groups else "everybody"
    text = f"{view.collection:24} {whom}, {'with' if view.names else 'without'} names"
    if view.withdrawn_at is not None:
        return f"{text}; withdrawn, the box does not know it yet"
    if view.seq is None:
        return f"{text}; the box has not fetched it yet"
    behind = "up to date" if not view.behind else f"{view.behind} changes behind"
    when = "" if view.spoke_at is None else f", last fetched {view.spoke_at:%Y-%m-%d %H:%M} UTC"
    return f"{text}; {behind}{when}"


@contextmanager
def _open_followers(settings: "Settings") -> "Iterator[Followers]":
    from match_server.process.bootstrap import open_database
    from match_server.services.devices.followers import Followers
    from shared.clock import SystemClock

    with open_database(settings) as database:
        yield Followers(database, SystemClock())


@contextmanager
def _open_devices(settings: "Settings") -> "Iterator[tuple[Devices, DeviceCodes]]":
    """Opens devices and codes of an existing server, without its other services."""
    from match_server.process.bootstrap import open_database
    from match_server.services.auth.keys import Keys
    from match_server.services.devices.devices import Devices
    from match_server.services.devices.enrollment_codes import DeviceCodes
    from shared.clock import SystemClock

    with open_database(settings) as database:
        clock = SystemClock()
        keys = Keys(database, clock)
        devices = Devices(database, keys, clock)
        yield (
            devices,
            DeviceCodes(
                database, devices, keys, clock, settings.public_url, settings.public_certificate
            ),
        )


def _qr_of(text: str) -> str:
    """Returns the QR picture in block characters, for a terminal."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(drawn, compact=True)
    return drawn.getvalue()
