"""All that can be set."""

import json
from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticUndefined

from match_server.commands.options import answer, json_flag
from match_server.settings import Settings


@click.command()
@json_flag
def settings(as_json: bool) -> None:
    """Show every setting with its default, as a file for --config.

    The same settings are taken from variables (MUSTER_PORT for `port`), which override the file.

    \b
    Example:
      match-server settings > muster.toml
    """
    found = [
        {
            "name": name,
            "default": _plain(field.get_default(call_default_factory=True)),
            "description": field.description or "",
            "variable": f"MUSTER_{name.upper()}",
        }
        for name, field in Settings.model_fields.items()
    ]
    lines = ["# Settings of match-server; take the # away from those that you change."]
    for one in found:
        value = "…" if one["default"] is None else json.dumps(one["default"])
        lines += ["", f"# {one['description']}", f"# {one['name']} = {value}"]
    answer(as_json, {"settings": found}, "\n".join(lines))


def _plain(value: Any) -> Any:
    if value is PydanticUndefined:
        return None
    return str(value) if isinstance(value, Path) else value
