"""What goes: persons who are erased, and what has been kept for long enough."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import (
    answer,
    data_dir,
    json_flag,
    require_consent,
    yes_flag,
)
from match_server.settings import load_settings

if TYPE_CHECKING:
    from match_server.schemas.audit import ErasureView


@click.command(short_help="Erase a person, and answer a certificate of it.")
@click.argument("person", required=False)
@click.option("--collection", default="default", show_default=True, help="Of the person.")
@click.option("--certificate", help="Show this certificate (an id) in place of erasing anybody.")
@yes_flag
@data_dir
@json_flag
@click.pass_obj
def erase(
    config: Path | None,
    /,
    person: str | None,
    collection: str,
    certificate: str | None,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Erase a person, by id, and everything that names them; answers a certificate.

    It asks first, unless --yes is given. It works while the server runs. The certificate is
    `pending` as long as somebody, a box that is away or a storage that does not answer, may still
    hold something.

    \b
    Examples:
      match-server erase 01a203dc-d1ba-7d44-99e4-4cda1934ccb9 --collection staff --yes
      match-server erase --certificate 01a20486-c6f7-7982-93c5-04039b7b3e50 --json
    """
    from match_server.process.open_services import open_services

    if (person is None) == (certificate is None):
        raise click.UsageError("name a person to be erased, or a --certificate to be shown")
    with open_services(load_settings(config, **options)) as services:
        if person is not None:
            named = services.persons.get(collection, person)
            require_consent(
                f"This erases {named.name} ({person}, of {collection}) for good: templates, "
                "photos, and the name in sightings.",
                yes=yes,
            )
            certificate = services.erasures.erase(collection, person).erasure
        services.erasures.settle()
        view = services.erasures.get(certificate or "")
    answer(as_json, view.model_dump(mode="json"), _text(view))


@click.command(short_help="Delete what has been kept for long enough.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@data_dir
@json_flag
@click.pass_obj
def retention(config: Path | None, /, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Delete what has been kept for as long as settings and policies allow.

    The server does it by itself every ten minutes.

    \b
    Example:
      match-server retention --dry-run --data-dir /var/lib/muster
    """
    from match_server.process.open_services import open_services

    with open_services(load_settings(config, **options)) as services:
        swept = services.retention.preview() if dry_run else services.retention.run()
    verb = "would go" if dry_run else "went"
    lines = [
        f"{one.collection or '(collections that are gone)'}: {one.events} sightings "
        f"({one.unknown} of nobody known), {one.snapshots} thumbnails, {one.probes} probes, "
        f"{one.persons} expired persons {verb}"
        for one in swept
        if one.anything
    ]
    found = {"dry_run": dry_run, "collections": [one.model_dump(mode="json") for one in swept]}
    answer(as_json, found, "\n".join(lines) or f"Nothing {verb}.")


def _text(view: "ErasureView") -> str:
    """The certificate for people: itself, and who still has to forget."""
    lines = [json.dumps(view.certificate.model_dump(mode="json"), indent=2, ensure_ascii=False)]
    lines.append(f"\nSHA-256 of the certificate: {view.sha256}")
    if view.audit is not None:
        lines.append(f"In the audit log: {view.audit}")
    lines.append(f"State: {view.state}")
    lines += [
        f"  waits for {one.who}{'' if one.name is None else ' ' + one.name}: {one.what}"
        for one in view.waiting
    ]
    return "\n".join(lines)
