"""The audit log."""

import sys
from pathlib import Path
from typing import Any

import click

from match_server.commands.options import answer, data_dir, json_flag
from match_server.schemas.audit import Anchor
from match_server.settings import load_settings


@click.group()
def audit() -> None:
    """Read the audit log, verify it, and note where it ends."""


@audit.command("list")
@click.option("--person", help="Id of a person: everything about whom.")
@click.option("--collection", help="Of the person, where others have one of that id.")
@click.option("--subject", help="Id of a key, template, image, group …")
@click.option("--actor", help='Who acted, e.g. "key 0a1b2c3d4e5f".')
@click.option("--action", help="What was done, e.g. person_erased.")
@click.option("--size", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--page", type=click.IntRange(1), default=1, show_default=True)
@data_dir
@json_flag
@click.pass_obj
def list_entries(
    config: Path | None,
    /,
    person: str | None,
    collection: str | None,
    subject: str | None,
    actor: str | None,
    action: str | None,
    size: int,
    page: int,
    as_json: bool,
    **options: Any,
) -> None:
    """List entries, newest first.

    \b
    Example:
      match-server audit list --person 01a2 --data-dir /var/lib/muster
    """
    from match_server.api.parsing import validated
    from match_server.process.bootstrap import open_database
    from match_server.schemas.audit import AuditQuery
    from match_server.services.audit.reader import Audit
    from shared.clock import rfc3339

    given = {
        "person": person,
        "collection": collection,
        "subject": subject,
        "actor": actor,
        "action": action,
    }
    query = validated(AuditQuery, {**given, "size": size, "page": page})
    with open_database(load_settings(config, **options)) as database:
        found = Audit(database).page(query)
    lines = [
        f"{one.number:>8}  {rfc3339(one.at)}  {one.actor:20} {one.action:32} "
        f"{one.person or one.subject or ''}"
        for one in found.items
    ]
    answer(as_json, found.model_dump(mode="json"), "\n".join(lines) or "There is no such entry.")


@audit.command("anchor")
@data_dir
@json_flag
@click.pass_obj
def show_anchor(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """Print where the log ends, as NUMBER:HASH.

    Keep it where those who can write to the database cannot: on paper, in a mail, on another
    machine. `audit verify --anchor` then shows whether anything before it was changed or cut off.

    \b
    Example:
      match-server audit anchor --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_database
    from match_server.services.audit.reader import Audit

    with open_database(load_settings(config, **options)) as database:
        head = Audit(database).head()
    answer(as_json, head.model_dump(mode="json"), str(head))


@audit.command("verify")
@click.option("--anchor", help="NUMBER:HASH that `audit anchor` printed before, or a file of it.")
@data_dir
@json_flag
@click.pass_obj
def verify(config: Path | None, /, anchor: str | None, as_json: bool, **options: Any) -> None:
    """Recompute the whole chain; exit status 1 says that it is broken, and the text where.

    \b
    Example:
      match-server audit verify --anchor 4711:9f2c… --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_database
    from match_server.services.audit.reader import Audit, anchor_of

    if anchor is not None and Path(anchor).is_file():
        anchor = Path(anchor).read_text(encoding="utf-8")
    wanted = None if anchor is None else anchor_of(anchor)
    with open_database(load_settings(config, **options)) as database:
        found = Audit(database).verify(wanted)
    text = (
        f"BROKEN: {found.problem}"
        if found.problem is not None
        else f"The log is whole{_from(found.start)}: {found.entries} entries, "
        f"{found.certificates} certificates of erasure. It ends at {found.head}"
    )
    answer(as_json, found.model_dump(mode="json"), text)
    if found.problem is not None:
        sys.exit(1)


def _from(start: Anchor) -> str:
    if not start.number:
        return ""
    return f" from entry {start.number + 1} on (retention deleted those up to {start})"
