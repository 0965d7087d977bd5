"""`edge-agent ledger`: why was nobody recognised?"""

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


@click.command(short_help="Say why faces were not recognised, by camera and day.")
@config_option
@click.option(
    "--days", type=click.IntRange(1, 366), default=7, show_default=True, help="So far back."
)
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@says_errors
def ledger(config: Path, days: int, as_json: bool) -> None:
    """Say how many faces came by, and why some were not sent to be recognised.

    By camera and day (UTC), also while the agent runs. As JSON, `reasons` are quality factors
    and `plainly` is what they mean.

    \b
    Example: edge-agent ledger --config /etc/muster/agent.toml --days 30
    """
    path = load_settings(config).ledger_path
    if not path.exists():
        raise NotFound(f"there is no ledger {path} yet: has the agent run with this configuration?")
    book = Ledger(path)
    try:
        since = SystemClock().now().date() - timedelta(days=days - 1)
        entered = book.days(since)
    finally:
        book.close()
    told = plainly(entered)
    if as_json:
        table = [
            {**day.model_dump(mode="json"), "plainly": plain.reasons}
            for day, plain in zip(entered, told, strict=True)
        ]
        click.echo(json.dumps(table, indent=2))
        return
    for one in told:
        click.echo(_as_text(one))
    if not told:
        click.echo(f"nobody came by in {days} days")


def _as_text(one: Refusals) -> str:
    text = f"{one.day} {one.camera}: {one.tracks} faces, {one.with_probe} sent"
    reasons = ", ".join(f"{tracks} {reason}" for reason, tracks in one.reasons.items())
    return f"{text}; {reasons}" if reasons else text
