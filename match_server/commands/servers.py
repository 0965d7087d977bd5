"""`match-server servers`: the processes that follow the change feed."""

from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings

if TYPE_CHECKING:
    from match_server.settings import Settings


@click.command(short_help="Show the processes that hold galleries, or forget a machine.")
@click.option("--forget", metavar="ID", help="A machine that is gone for good, with its disk.")
@with_settings
@json_flag
def servers(settings: "Settings", forget: str | None, as_json: bool) -> None:
    """List the processes of all servers on this database, and how far each follows the changes.

    A certificate of erasure waits for each of them. A machine that will never start again keeps
    certificates pending until it is forgotten.

    \b
    Examples:
      match-server servers --data-dir /var/lib/muster
      match-server servers --forget old-machine-1a2b3c4d
    """
    from match_server.process.bootstrap import open_database
    from match_server.services.change_feed import position
    from match_server.services.galleries.processes import forget_machine, is_silent, processes
    from shared.clock import SystemClock, rfc3339

    with open_database(settings) as database:
        if forget is not None:
            count = forget_machine(database, forget)
            print_result(as_json, {"forgotten": count}, f"Forgot {forget}.")
            return
        with database.read() as session:
            newest, known = position(session), processes(session)
    now = SystemClock().now()
    rows = [
        {
            "machine": row.folder,
            "process": row.kind,
            "seq": row.seq,
            "behind": newest - row.seq,
            "running": not is_silent(row, now),
            "reported_at": rfc3339(row.reported_at),
        }
        for row in known
    ]
    lines = [
        f"{row['machine']:32} {row['process']:7} {row['behind']:>8} changes behind  "
        f"{'running' if row['running'] else 'silent since'} {row['reported_at']}"
        for row in rows
    ]
    print_result(as_json, {"seq": newest, "processes": rows}, "\n".join(lines) or "None has run.")
