"""What is wrong, and what to do."""

import sys
from pathlib import Path
from typing import Any

import click

from match_server.commands.options import answer, data_dir, json_flag
from match_server.settings import load_settings


@click.command(short_help="Say what is wrong here, and what to do about it.")
@data_dir
@json_flag
@click.pass_obj
def doctor(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """Check data folder, database, keys and face models; exit status 0 when all is well.

    \b
    Example:
      match-server doctor --data-dir /var/lib/muster
    """
    from match_server.process.doctor import examine

    checks = examine(load_settings(config, **options))
    rows = [{"name": check.name, "ok": check.ok, "message": check.message} for check in checks]
    answer(as_json, {"checks": rows}, "\n".join(check.as_text() for check in checks))
    if not all(check.ok for check in checks):
        sys.exit(1)
