"""`edge-agent ledger`: why persons were not recognised."""

import json
from datetime import timedelta
from pathlib import Path

import click

from edge_agent.cli.errors import says_errors
from edge_agent.cli.options import config_option
from edge_agent.config.loading import load_settings
from edge_agent.vision.recognition_ledger import Ledger, Refusals, plainly
from shared.clock import SystemClock
from shared.errors import NotFound


@click.command(short_help="Print why faces were not recognised, by camera and day.")
@config_option
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="Number of days, up to today.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@says_errors
def ledger(config: Path, days: int, as_json: bool) -> None:
    """Print how many faces were seen, and why some were not sent to be recognised.

    By camera and day (UTC), also while the agent runs. In the JSON, `reasons` are quality factors
    and `plainly` says in words what they mean.

    \b
    Example: edge-agent ledger --config /etc/muster/agent.toml --days 30
    """
    path = load_settings(config).ledger_path
    if not path.exists():
        raise NotFound(f"there is no ledger {path} yet: has the agent run with this configuration?")
    database = Ledger(path)
    try:
        since = SystemClock().now().date() - timedelta(days=days - 1)
        entries = database.days(since)
    finally:
        database.close()
    rows = plainly(entries)
    if as_json:
        table = [
            {**day.model_dump(mode="json"), "plainly": plain.reasons}
            for day, plain in zip(entries, rows, strict=True)
        ]
        click.echo(json.dumps(table, indent=2))
        return
    for row in rows:
        click.echo(_as_text(row))
    if not rows:
        click.echo(f"no faces were seen in {days} days")


def _as_text(row: Refusals) -> str:
    text = f"{row.day} {row.camera}: {row.tracks} faces, {row.with_probe} sent"
    reasons = ", ".join(f"{tracks} {reason}" for reason, tracks in row.reasons.items())
    return f"{text}; {reasons}" if reasons else text
