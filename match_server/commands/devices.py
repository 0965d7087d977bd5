"""Boxes: inviting them by a code, and how they are."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import answer, data_dir, json_flag
from match_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from match_server.services.boxes.device_codes import DeviceCodes
    from match_server.services.boxes.devices import Devices


@click.group()
def device() -> None:
    """Invite boxes and see how they are, also while the server runs."""


@device.command("code")
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


@contextmanager
def _opened(settings: Settings) -> "Iterator[tuple[Devices, DeviceCodes]]":
    """Devices and codes over a prepared data folder: nothing else is loaded for them."""
    from match_server.database import Database
    from match_server.prepare import prepare
    from match_server.services.boxes.device_codes import DeviceCodes, certificate_sha256
    from match_server.services.boxes.devices import Devices
    from match_server.services.law.keys import Keys
    from shared.clock import SystemClock

    prepare(settings)
    database = Database(settings.sqlalchemy_url)
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
    try:
        yield devices, codes
    finally:
        database.close()


def _qr_of(text: str) -> str:
    """The QR picture in block characters, for a terminal."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(drawn, compact=True)
    return drawn.getvalue()
