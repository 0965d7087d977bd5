"""`match-server audit`: the audit log."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import json_flag, print_result, with_settings

if TYPE_CHECKING:
    from match_server.schemas.audit import Anchor
    from match_server.settings import Settings


@click.group()
def audit() -> None:
    """Read the audit log, verify it, and note where it ends."""


@audit.command("list")
@click.option("--person", help="Id of a person: all entries about them.")
@click.option("--collection", help="Of the person, where others have one of that id.")
@click.option("--subject", help="Id of a key, template, image, group …")
@click.option("--actor", help='Who acted, e.g. "key 0a1b2c3d4e5f".')
@click.option("--action", help="What was done, e.g. person_erased.")
@click.option("--size", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--page", type=click.IntRange(1), default=1, show_default=True)
@with_settings
@json_flag
def list_entries(settings: "Settings", as_json: bool, **query: Any) -> None:
    """List entries, newest first.

    \b
    Example:
      match-server audit list --person 01a2 --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_database
    from match_server.schemas.audit import AuditQuery
    from match_server.schemas.validation import validated
    from match_server.services.audit.reader import Audit
    from shared.clock import rfc3339

    parsed = validated(AuditQuery, query)
    with open_database(settings) as database:
        page = Audit(database).page(parsed)
    lines = [
        f"{entry.number:>8}  {rfc3339(entry.at)}  {entry.actor:20} {entry.action:32} "
        f"{entry.person or entry.subject or ''}"
        for entry in page.items
    ]
    text = "\n".join(lines) or "There is no such entry."
    print_result(as_json, page.model_dump(mode="json"), text)


@audit.command("anchor")
@with_settings
@json_flag
def show_anchor(settings: "Settings", as_json: bool) -> None:
    """Print where the log ends, as NUMBER:HASH.

    Keep it where those who can write to the database cannot: on paper, in a mail, on another
    machine. `audit verify --anchor` then shows whether anything before it was changed or cut off.

    \b
    Example:
      match-server audit anchor --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_database
    from match_server.services.audit.reader import Audit

    with open_database(settings) as database:
        head = Audit(database).head()
    print_result(as_json, head.model_dump(mode="json"), str(head))


@audit.command("verify")
@click.option("--anchor", help="NUMBER:HASH that `audit anchor` printed before, or a file of it.")
@with_settings
@json_flag
def verify(settings: "Settings", anchor: str | None, as_json: bool) -> None:
    """Recompute the whole chain. Exit status 1: it is broken, and the text says where.

    \b
    Example:
      match-server audit verify --anchor 4711:9f2c… --data-dir /var/lib/muster
    """
    from match_server.process.bootstrap import open_database
    from match_server.services.audit.reader import Audit, anchor_of

    if anchor is not None and Path(anchor).is_file():
        anchor = Path(anchor).read_text(encoding="utf-8")
    expected = None if anchor is None else anchor_of(anchor)
    with open_database(settings) as database:
        result = Audit(database).verify(expected)
    text = (
        f"BROKEN: {result.problem}"
        if result.problem is not None
        else f"The log is whole{_from(result.start)}: {result.entries} entries, "
        f"{result.certificates} certificates of erasure. It ends at {result.head}"
    )
    print_result(as_json, result.model_dump(mode="json"), text)
    if result.problem is not None:
        sys.exit(1)


def _from(start: "Anchor") -> str:
    if not start.number:
        return ""
    return f" from entry {start.number + 1} on (retention deleted those up to {start})"
