"""`match-server settings`: every setting with its default."""

import json
from pathlib import Path
from typing import Any

import click

from match_server.commands.options import json_flag, print_result


@click.command()
@json_flag
def settings(as_json: bool) -> None:
    """Show every setting with its default, as a file for --config.

    The same settings are taken from variables (MUSTER_PORT for `port`), which override the file.

    \b
    Example:
      match-server settings > muster.toml
    """
    from match_server.settings import Settings

    rows = [
        {
            "name": name,
            "default": _as_json(field.get_default(call_default_factory=True)),
            "description": field.description or "",
            "variable": f"MUSTER_{name.upper()}",
        }
        for name, field in Settings.model_fields.items()
    ]
    lines = ["# Settings of match-server; remove the # before those that you change."]
    for row in rows:
        value = "…" if row["default"] is None else json.dumps(row["default"])
        lines += ["", f"# {row['description']}", f"# {row['name']} = {value}"]
    print_result(as_json, {"settings": rows}, "\n".join(lines))


def _as_json(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
