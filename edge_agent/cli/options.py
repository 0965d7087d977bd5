"""Options that several commands of `edge-agent` have."""

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    envvar="MUSTER_AGENT_CONFIG",
    default=Path("agent.toml"),
    show_default=True,
    help="The configuration file of this box.",
)
