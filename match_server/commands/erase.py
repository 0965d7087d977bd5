"""`match-server erase` and `retention`: persons who are erased, and data that has expired."""

import json
import time
from typing import TYPE_CHECKING

import click

from match_server.commands.options import (
    json_flag,
    print_result,
    require_consent,
    with_settings,
    yes_flag,
)

if TYPE_CHECKING:
    from match_server.schemas.audit import ErasureView
    from match_server.services.privacy.erasure import Erasures
    from match_server.settings import Settings

_SERVERS_S = 15.0  # that running servers may take to report
_LOOK_S = 0.5


@click.command(short_help="Erase a person, and print a certificate of it.")
@click.argument("person", required=False)
@click.option("--collection", default="default", show_default=True, help="Of the person.")
@click.option("--certificate", help="Show this certificate (an id) in place of erasing anybody.")
@yes_flag
@with_settings
@json_flag
def erase(
    settings: "Settings",
    person: str | None,
    collection: str,
    certificate: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase a person, by id, and everything that names them; prints a certificate.

    It asks first, unless --yes is given. It works while the server runs, and waits some seconds for
    it. The certificate is `pending` as long as a server or a box that is away, or a storage that
    does not respond, may still hold data of the person.

    \b
    Examples:
      match-server erase 01a203dc-d1ba-7d44-99e4-4cda1934ccb9 --collection staff --yes
      match-server erase --certificate 01a20486-c6f7-7982-93c5-04039b7b3e50 --json
    """
    from match_server.process.open_services import open_services

    if (person is None) == (certificate is None):
        raise click.UsageError("name a person to be erased, or a --certificate to be shown")
    with open_services(settings) as services:
        if person is not None:
            view = services.persons.get(collection, person)
            require_consent(
                f"This erases {view.name} ({person}, of {collection}) for good: templates, "
                "photos, and the name in sightings.",
                yes=yes,
            )
            certificate = services.erasures.erase(collection, person).erasure
        erasure = _settled(services.erasures, certificate or "")
    print_result(as_json, erasure.model_dump(mode="json"), _text(erasure))


@click.command(short_help="Delete data whose retention time is over.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@with_settings
@json_flag
def retention(settings: "Settings", dry_run: bool, as_json: bool) -> None:
    """Delete data that has been kept for as long as settings and policies allow.

    The server does it by itself every ten minutes.

    \b
    Example:
      match-server retention --dry-run --data-dir /var/lib/muster
    """
    from match_server.process.open_services import open_services

    with open_services(settings) as services:
        swept = services.retention.preview() if dry_run else services.retention.run()
    verb = "would go" if dry_run else "went"
    lines = [
        f"{row.collection or '(collections that are gone)'}: {row.events} sightings "
        f"({row.unknown} of unknown persons), {row.snapshots} thumbnails, {row.probes} probes, "
        f"{row.persons} expired persons {verb}"
        for row in swept
        if row.anything
    ]
    value = {"dry_run": dry_run, "collections": [row.model_dump(mode="json") for row in swept]}
    print_result(as_json, value, "\n".join(lines) or f"Nothing {verb}.")


def _settled(erasures: "Erasures", certificate: str) -> "ErasureView":
    """Returns the certificate when it is complete, or waits for more than running servers."""
    until_s = time.monotonic() + _SERVERS_S
    while True:
        erasures.settle()
        view = erasures.get(certificate)
        servers = {wait.who for wait in view.waiting} == {"server"}
        if not servers or time.monotonic() >= until_s:
            return view
        time.sleep(_LOOK_S)


def _text(view: "ErasureView") -> str:
    """Returns the certificate for a reader, with the devices and storages that it waits for."""
    lines = [json.dumps(view.certificate.model_dump(mode="json"), indent=2, ensure_ascii=False)]
    lines.append(f"\nSHA-256 of the certificate: {view.sha256}")
    if view.audit is not None:
        lines.append(f"In the audit log: {view.audit}")
    lines.append(f"State: {view.state}")
    lines += [
        f"  waits for {wait.who}{'' if wait.name is None else ' ' + wait.name}: {wait.what}"
        for wait in view.waiting
    ]
    return "\n".join(lines)
