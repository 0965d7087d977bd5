"""The command `edge-agent`."""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click
from cv2.utils import logging as cv2_logging

from edge_agent.cli.enroll_device import enroll_device
from edge_agent.cli.errors import says_errors
from edge_agent.cli.ledger import ledger
from edge_agent.cli.options import config_option
from edge_agent.cli.process_exit import leave
from edge_agent.config.loading import load_settings, settings_of
from edge_agent.config.settings import AgentSettings, default_device, default_state_dir

_DRAIN_S: Final = 30.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="muster", prog_name="edge-agent")
def main() -> None:
    """From a camera to probes: watch, choose the best shot, embed, deliver.

    \b
    A new box:  edge-agent enroll-device --server https://muster.example ABCD-1234
                edge-agent doctor
                edge-agent run
    """


main.add_command(ledger)
main.add_command(enroll_device)


@main.command(short_help="Watch the cameras until a signal stops it.")
@config_option
@says_errors
def run(config: Path) -> None:
    """Watch the cameras of a configuration until a signal stops it.

    \b
    Example: edge-agent run --config /etc/muster/agent.toml
    """
    _log_to_stderr("INFO")
    logging.getLogger().setLevel(load_settings(config).log_level)
    from edge_agent.supervisor import Service

    leave(Service(config).run())


@main.command(short_help="Watch a film, a picture or a camera once, and print a summary.")
@click.argument("source")
@click.option("--server", metavar="URL", help="Send probes over HTTP to this match-server.")
@click.option("--key-file", type=click.Path(path_type=Path), help="Its key; or MUSTER_SERVER_KEY.")
@click.option("--broker", metavar="URL", help="Send probes over MQTT through this broker.")
@click.option(
    "--device", default=default_device, help="The name of this box.  [default: host name]"
)
@click.option("--site", default="main", show_default=True)
@click.option("--camera", default="once", show_default=True, help="The camera's name.")
@click.option("--pack", default="compact", show_default=True, help="The model pack.")
@click.option("--detector", help="The detector of another pack, e.g. centerface.")
@click.option("--gate", type=click.Choice(["doorway", "passport", "off"]), default="doorway")
@click.option("--realtime", is_flag=True, help="Play a film at its own pace, as a camera would.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="The folder of the outbox.")
@click.option(
    "--timeout", default=_DRAIN_S, show_default=True, help="Seconds to wait for delivery."
)
@click.option("--json", "as_json", is_flag=True, help="End with a summary as JSON.")
@says_errors
def once(
    source: str,
    server: str | None,
    key_file: Path | None,
    broker: str | None,
    state_dir: Path | None,
    timeout: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Watch SOURCE to its end, deliver the probes, and print a summary.

    SOURCE is a film, a picture, a folder of pictures, a camera (/dev/video0), an address (rtsp://…),
    rpicam:0 or a GStreamer pipeline. The exit status is 0 only if it could be read and every probe
    was delivered. Without --server or --broker nothing is sent or kept.

    \b
    Example: edge-agent once door.mp4 --server http://127.0.0.1:8480 --key-file key --json
    """
    _log_to_stderr("WARNING")
    with tempfile.TemporaryDirectory(prefix="muster-") as scratch:
        kept = (state_dir or default_state_dir()) if server or broker else Path(scratch)
        settings = settings_of(_once_table(source, server, key_file, broker, kept, options))
        succeeded, report = _watch_once(settings, timeout)
    click.echo(json.dumps(report, indent=2) if as_json else _as_text(report))
    leave(0 if succeeded else 1)


@main.command(short_help="Check this box, and print what to do about each problem.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@says_errors
def doctor(config: Path, as_json: bool) -> None:
    """Check cameras, models, clock, disk, broker and server, and print what to do.

    Each check is `ok`, `hm` (doubtful) or `BAD`; the exit status is 1 where one is BAD.

    \b
    Example: edge-agent doctor --config /etc/muster/agent.toml
    """
    _log_to_stderr("ERROR")
    from edge_agent.diagnostics.doctor import configuration, examine
    from edge_agent.fleet.remote_config import Configurations
    from shared.clock import SystemClock

    configurations = Configurations(config, SystemClock())
    settings = configurations.settings_with(configurations.running)
    checks = []
    for check in chain(examine(settings), [configuration(configurations)]):
        checks.append(check)
        if not as_json:
            click.echo(check.as_text())
    if as_json:
        rows = [
            {
                "what": check.name,
                "state": check.state,
                "found": check.message,
                "advice": check.advice,
            }
            for check in checks
        ]
        click.echo(json.dumps(rows, indent=2))
    sys.exit(0 if all(check.ok for check in checks) else 1)


@main.command(short_help="Print a configuration with every key explained.")
def example() -> None:
    """Print a configuration with every key, its default and its meaning.

    \b
    Example: edge-agent example > agent.toml
    """
    text = resources.files("edge_agent.config").joinpath("agent.example.toml")
    click.echo(text.read_text(encoding="utf-8"), nl=False)


def _watch_once(settings: AgentSettings, timeout_s: float) -> tuple[bool, dict[str, Any]]:
    """Returns whether all was delivered, and the summary."""
    from edge_agent.diagnostics.report import summary
    from edge_agent.diagnostics.stage_times import StageTimes, time_frames, timed_models
    from edge_agent.factory import build_agent, open_outbox, open_transport
    from models.face_models import open_models

    transport = open_transport(settings)
    times = StageTimes()
    models = timed_models(
        open_models(settings.models.pack, detector=settings.models.detector), times
    )
    agent = build_agent(settings, models, open_outbox(settings), transport, reconnect=False)
    for camera in agent.cameras:
        time_frames(camera.pipeline, times)
    _stop_on_signal(agent.stopping.set)
    delivered = True
    before = agent.outbox.counts()
    try:
        agent.run()
        if agent.delivery is not None:
            stopped = agent.stop_requested
            delivered = agent.delivery.drained(0.5 if stopped else timeout_s)
        report = summary(agent, None if transport is None else transport.name, times)
    finally:
        agent.close()
    for name in ("put", "acknowledged", "refused", "dropped"):  # of this run alone
        report["probes"][name] -= getattr(before, name)
    lost = report["probes"]["refused"] or report["probes"]["dropped"]
    return delivered and not lost and not report["failed"], report


def _once_table(
    source: str,
    server: str | None,
    key_file: Path | None,
    broker: str | None,
    state_dir: Path,
    options: dict[str, Any],
) -> dict[str, Any]:
    table: dict[str, Any] = {
        "device": options["device"],
        "site": options["site"],
        "state_dir": state_dir,
        "cameras": [{"name": options["camera"], "source": source, "realtime": options["realtime"]}],
        "models": {"pack": options["pack"], "detector": options["detector"]},
        "shots": {"gate": options["gate"]},
    }
    if server is not None:
        table["server"] = {"url": server, "key_file": key_file}
    if broker is not None:
        table["broker"] = {"url": broker}
    return table


def _as_text(report: dict[str, Any]) -> str:
    probes = report["probes"]
    text = (
        f"{report['frames']} frames in {report['seconds']:.1f} s ({report['fps']:.0f} a second),"
        f" {report['tracks']} tracks, {report['embeddings']} embeddings, {probes['made']} probes"
    )
    if report["transport"] is None:
        return f"{text}; nothing was sent (no --server, no --broker)"
    text += f"; {probes['acknowledged']} delivered to the {report['transport']}"
    if probes["refused"]:
        text += f", {probes['refused']} refused"
    if probes["waiting"]:
        text += f", {probes['waiting']} wait in the outbox"
    return text if report["complaint"] is None else f"{text}\n{report['complaint']}"


def _stop_on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def _log_to_stderr(level: str) -> None:
    # FFmpeg in OpenCV logs each damaged packet; the agent logs it once, with the camera's name.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2_logging.setLogLevel(cv2_logging.LOG_LEVEL_ERROR)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it logs addresses with passwords
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", force=True)


if __name__ == "__main__":
    main()
