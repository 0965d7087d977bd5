"""`match-server doctor`: checks of a server, with advice for each problem."""

import sys
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings

if TYPE_CHECKING:
    from match_server.settings import Settings


@click.command(short_help="Say what is wrong here, and what to do about it.")
@with_settings
@json_flag
def doctor(settings: "Settings", as_json: bool) -> None:
    """Check data folder, database, keys and face models; exit status 0 when all is well.

    \b
    Example:
      match-server doctor --data-dir /var/lib/muster
    """
    from match_server.process.doctor import examine

    checks = examine(settings)
    rows = [{"name": check.name, "ok": check.ok, "message": check.message} for check in checks]
    print_result(as_json, {"checks": rows}, "\n".join(check.as_text() for check in checks))
    if not all(check.ok for check in checks):
        sys.exit(1)
