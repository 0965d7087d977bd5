"""Boxes: inviting them by a code, and how they are."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import answer, data_dir, json_flag
from match_server.schemas.feed import FollowerQuery, GalleriesPut, Granted
from match_server.settings import Settings, load_settings
from shared.errors import NotFound
from shared.ids import is_name

if TYPE_CHECKING:
    from match_server.schemas.feed import FollowerView
    from match_server.services.devices.devices import Devices
    from match_server.services.devices.enrollment_codes import DeviceCodes
    from match_server.services.devices.followers import Followers


@click.group()
def device() -> None:
    """Invite boxes and see how they are, also while the server runs."""


@device.command("code", short_help="Make a code with which a box fetches its key.")
@click.option("--device", "name", required=True, help="The box's name; made if it is new.")
@click.option("--site", default="main", show_default=True, help="Where a new box is.")
@click.option("--collection", help="What a new box's probes search.  [default: the server's]")
@data_dir
@json_flag
@click.pass_obj
def code(
    config: Path | None,
    /,
    name: str,
    site: str,
    collection: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a code with which a box fetches its key: once, within 15 minutes.

    With the setting `public_url` the code is shown as a QR picture too, for the box's camera.

    \b
    Example:
      match-server device code --device entrance-box --data-dir /var/lib/muster
    """
    from pydantic import ValidationError

    from match_server.schemas.devices import DeviceCreate

    try:
        wanted = DeviceCreate(name=name, site=site, collection=collection)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise click.UsageError(
            f"--{field if field != 'name' else 'device'}: letters, digits, '_', '.', '-' only"
        ) from None
    settings = load_settings(config, **options)
    with _opened(settings) as (_, codes):
        made = codes.make_for_new(wanted)
    text = f"{made.code}\n\nGood until {made.expires_at:%H:%M} UTC, once. On the box:\n"
    server = settings.public_url or f"http://THIS-SERVER:{settings.port}"
    text += f"  edge-agent enroll-device --server {server} {made.code}"
    if made.invitation is not None:
        text += (
            "\nor show this to its camera and run `edge-agent enroll-device --camera SOURCE`:\n\n"
        )
        text += _qr_of(made.invitation)
    answer(as_json, made.model_dump(mode="json"), text)


@device.command("list")
@data_dir
@json_flag
@click.pass_obj
def list_devices(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """List the boxes and how they are.

    \b
    Example:
      match-server device list --data-dir /var/lib/muster
    """
    from match_server.schemas.devices import DeviceQuery

    with _opened(load_settings(config, **options)) as (devices, _):
        page = devices.page(DeviceQuery(size=1000))
    lines = []
    for one in page.items:
        seen = "never" if one.last_seen_at is None else f"{one.last_seen_at:%Y-%m-%d %H:%M:%S} UTC"
        state = "online " if one.online else "offline"
        lines.append(
            f"{state}  {one.name:24} last seen {seen}, {one.sequence.missing} numbers missing, "
            f"configuration {one.config.state}"
        )
    found = [one.model_dump(mode="json") for one in page.items]
    answer(as_json, {"devices": found}, "\n".join(lines) or "There is no box yet.")


@device.command("gallery", short_help="Say which templates a box may hold, and see what it holds.")
@click.option("--device", "name", required=True, help="The box's name.")
@click.option("--give", metavar="COLLECTION", help="Let it hold this collection's templates.")
@click.option("--group", "groups", multiple=True, help="Only of this group, by name or id; repeat.")
@click.option("--names", is_flag=True, help="Let the box learn the persons' names as well.")
@click.option("--withdraw", metavar="COLLECTION", help="Let it hold this collection no more.")
@data_dir
@json_flag
@click.pass_obj
def gallery(
    config: Path | None,
    /,
    name: str,
    give: str | None,
    groups: tuple[str, ...],
    names: bool,
    withdraw: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a box may hold to identify people by itself, and how far it has come.

    What is given replaces what was given of that collection before. A box that is told that it
    may not hold something any more forgets it, within a second where it is connected. The box's
    own agent.toml says whether it uses what it may hold: [gallery] mode.

    \b
    Examples:
      match-server device gallery --device entrance-box
      match-server device gallery --device entrance-box --give staff --group "Night shift" --names
      match-server device gallery --device entrance-box --withdraw staff
    """
    if give is None and (groups or names):
        raise click.UsageError("--group and --names go with --give COLLECTION")
    if not is_name(name):
        raise click.UsageError("--device: letters, digits, '_', '.', '-' only")
    if give is not None and give == withdraw:
        raise click.UsageError("the same collection cannot be given and withdrawn")
    with _followers(load_settings(config, **options)) as followers:
        changed = _changed(followers, name, give, groups, names, withdraw)
        found = followers.page(FollowerQuery(device=name, size=1000)).items
        text = "\n".join(_as_held(one) for one in found) or f"{name} may hold nothing."
    if give is not None and changed:
        text += '\nIts agent.toml: [gallery] mode = "when_away" (or "always"), and ' + (
            f'collections = ["{give}"]'
        )
    answer(as_json, {"galleries": [one.model_dump(mode="json") for one in found]}, text)


def _changed(
    followers: "Followers",
    name: str,
    give: str | None,
    groups: Sequence[str],
    names: bool,
    withdraw: str | None,
) -> bool:
    """Gives and withdraws what is asked for; whether that was anything."""
    if give is None and withdraw is None:
        return False
    held = {one.collection: one for one in followers.given(name)}
    if withdraw is not None and held.pop(withdraw, None) is None:
        raise NotFound(f"{name} was not given {withdraw!r}: nothing is to be withdrawn")
    if give is not None:
        ids = followers.group_ids(give, groups)
        held[give] = Granted(collection=give, groups=ids, names=names)
    followers.put(name, GalleriesPut(galleries=list(held.values())))
    return True


def _as_held(one: "FollowerView") -> str:
    whom = f"{len(one.groups)} of its groups" if one.groups else "everybody"
    text = f"{one.collection:24} {whom}, {'with' if one.names else 'without'} names"
    if one.withdrawn_at is not None:
        return f"{text}; withdrawn, the box has not been told yet"
    if one.seq is None:
        return f"{text}; the box has not asked for it yet"
    behind = "up to date" if not one.behind else f"{one.behind} changes behind"
    when = "" if one.spoke_at is None else f", asked last at {one.spoke_at:%Y-%m-%d %H:%M} UTC"
    return f"{text}; {behind}{when}"


@contextmanager
def _followers(settings: Settings) -> "Iterator[Followers]":
    from match_server.process.bootstrap import open_database
    from match_server.services.devices.followers import Followers
    from shared.clock import SystemClock

    with open_database(settings) as database:
        yield Followers(database, SystemClock())


@contextmanager
def _opened(settings: Settings) -> "Iterator[tuple[Devices, DeviceCodes]]":
    """Devices and codes of a server that exists: nothing else is loaded for them."""
    from match_server.process.bootstrap import open_database
    from match_server.services.auth.keys import Keys
    from match_server.services.devices.devices import Devices
    from match_server.services.devices.enrollment_codes import DeviceCodes, certificate_sha256
    from shared.clock import SystemClock

    with open_database(settings) as database:
        clock = SystemClock()
        keys = Keys(database, clock)
        devices = Devices(database, keys, clock)
        codes = DeviceCodes(
            database,
            devices,
            keys,
            clock,
            public_url=settings.public_url,
            certificate_sha256=certificate_sha256(settings.public_certificate),
        )
        yield devices, codes


def _qr_of(text: str) -> str:
    """The QR picture in block characters, for a terminal."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(drawn, compact=True)
    return drawn.getvalue()
