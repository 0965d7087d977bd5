"""`./dev demo`: from a camera to a name, on this machine, with real models and real pictures."""

import json
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click
import requests
from rich.console import Console

from demo.cast import SAMPLE_VIDEO
from demo.enrollment import enroll_all
from demo.film import lobby_film
from demo.processes import (
    BIN,
    DemoError,
    broker,
    create_key,
    find_broker,
    free_port,
    running,
    server,
    tail,
)
from demo.verdict import CAR, LOBBY, Event, Verdict, judge
from demo.watching import Watcher
from models.samples import sample_path

WORK = Path(__file__).parent.parent / "var" / "demo"
_DEVICE = "demo-box"
Transport = Literal["mqtt", "http"]


@click.command()
@click.option("--exit", "by_itself", is_flag=True, help="End after the films, with a verdict.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write what happened.")
@click.option("--port", default=0, help="Of the page and the HTTP contract; default: a free one.")
@click.option("--transport", type=click.Choice(["mqtt", "http"]), help="Default: mqtt if possible.")
def main(by_itself: bool, report: Path | None, port: int, transport: Transport | None) -> None:
    """Show who is in front of two cameras (films), live, and judge whether that was right.

    The exit status is 0 only if everyone expected was identified, nobody was taken for
    another, and every stranger stayed unknown.
    """
    console = Console(highlight=False)
    for wish in (signal.SIGTERM, signal.SIGHUP):  # the second when the terminal is closed
        signal.signal(wish, _leave)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        passed = _demonstrate(console, by_itself, report, port or free_port(), transport)
    except DemoError as error:
        console.print(f"[red]{error}[/red]")
        passed = False
    except KeyboardInterrupt:
        console.print("\nGoodbye.")
        passed = True
    sys.exit(0 if passed else 1)


def _leave(number: int, _frame: object) -> None:
    """Ends as Ctrl-C does, with all started processes."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _demonstrate(
    console: Console,
    by_itself: bool,
    report: Path | None,
    port: int,
    transport: Transport | None,
) -> bool:
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="data-", dir=WORK)))
        url = stack.enter_context(server(WORK, data, port))
        console.print(f"[bold]Muster[/bold] is up. The page: [bold cyan]{url}/[/bold cyan]")
        _enroll(console, url, create_key(data, "enroller"))
        transport, arguments = _transport(console, stack, data, url, transport)
        viewer_key = create_key(data, "viewer")
        watcher = Watcher(url, viewer_key, _Teller(console).tell)
        watcher.start()
        stack.callback(watcher.close)
        films = {CAR: sample_path(SAMPLE_VIDEO), LOBBY: lobby_film(WORK)}
        summaries = _watch(console, films, arguments, data, realtime=not by_itself)
        events = _events(url, viewer_key)
        verdict = judge(events)
        _print_verdict(console, verdict)
        if report is not None:
            report.write_text(json.dumps(_report(verdict, summaries, transport, events), indent=2))
        if not by_itself:
            console.print(f"\nThe cameras go on. The page: {url}/   Ctrl-C ends the demo.")
            while True:
                _watch(console, films, arguments, data, realtime=True)
        return verdict.passed


def _enroll(console: Console, url: str, key: str) -> None:
    console.print("\nIt learns four people, one picture each:")
    for enrolled in enroll_all(url, key):
        waived = f"  (waived: {', '.join(enrolled.reasons)})" if enrolled.reasons else ""
        console.print(
            f"  {enrolled.person.name:<16} from {enrolled.person.enrolled_from:<26}"
            f" quality {enrolled.quality:.2f}{waived}"
        )


def _transport(
    console: Console, stack: ExitStack, data: Path, url: str, transport: Transport | None
) -> tuple[Transport, list[str]]:
    """Starts the transport of probes; returns it with the agent's options for it."""
    program = find_broker()
    if transport == "mqtt" and program is None:
        raise DemoError("MQTT needs a broker: install mosquitto, or leave --transport out")
    if program is None or transport == "http":
        key_file = data / "device.key"
        key_file.touch(mode=0o600)
        key_file.write_text(create_key(data, "device", _DEVICE))
        console.print("\nProbes travel over HTTP.")
        return "http", ["--server", url, "--key-file", str(key_file)]
    broker_url = stack.enter_context(broker(WORK, program))
    ingest = [str(BIN / "match-server"), "ingest", "--data-dir", str(data), "--broker", broker_url]
    stack.enter_context(running(ingest, WORK / "ingest.log"))
    console.print(f"\nProbes travel over MQTT, through a mosquitto at {broker_url}.")
    return "mqtt", ["--broker", broker_url]


def _watch(
    console: Console, films: dict[str, Path], arguments: list[str], data: Path, *, realtime: bool
) -> list[dict[str, Any]]:
    """Runs the agent on one film after the other; returns its summaries."""
    summaries = []
    for camera, film in films.items():
        console.print(f"\n[bold]Camera {camera}[/bold] watches {film.name}")
        command = [str(BIN / "edge-agent"), "once", str(film), *arguments, "--camera", camera]
        command += ["--device", _DEVICE, "--state-dir", str(data / "agent"), "--json"]
        command += ["--realtime"] if realtime else []
        summaries.append(_run_agent(command, WORK / f"agent-{camera}.log"))
    return summaries


def _run_agent(command: list[str], log: Path) -> dict[str, Any]:
    with log.open("wb") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, check=False)
    if done.returncode != 0:
        raise DemoError(f"the agent failed (its log: {log.name}):\n{tail(log)}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


class _Teller:
    """Prints each sighting once, and again if it improves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: dict[str, str] = {}  # by event

    def tell(self, event: Event) -> None:
        if event["decision"] == "identified" and event["person"] is not None:
            who, style = event["person"]["name"], "green"
        else:
            who, style = event["decision"].capitalize(), "yellow"
        similarity = "–" if event["similarity"] is None else f"{event['similarity']:.2f}"
        text = (
            f"{event['camera']:<6} [{style}]{who:<16}[/{style}] similarity {similarity:>5}"
            f"  quality {event['quality']['score']:.2f}"
        )
        before = self._printed.get(event["id"])
        if text != before:
            self._printed[event["id"]] = text
            moment = datetime.fromisoformat(event["captured_at"]).astimezone()
            again = "" if before is None else "  (better shot)"
            self._console.print(f"  {moment:%H:%M:%S}  {text}{again}", soft_wrap=True)


def _events(url: str, key: str) -> list[Event]:
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.get(f"{url}/v1/events?size=1000", headers=headers, timeout=30)
    answer.raise_for_status()
    events: list[Event] = answer.json()["items"]
    return events


def _print_verdict(console: Console, verdict: Verdict) -> None:
    console.print(
        f"\nIdentified {len(verdict.identified)} of {len(verdict.expected)}:"
        f" {', '.join(verdict.identified) or 'nobody'}."
    )
    if verdict.missed:
        console.print(f"[red]Missed: {', '.join(verdict.missed)}.[/red]")
    for mistake in verdict.misidentified:
        console.print(f"[red]{mistake['is']} was taken for {mistake['called']}.[/red]")
    console.print(
        f"Strangers: {verdict.strangers_seen} sightings, {verdict.strangers_unknown} unknown."
    )
    console.print("[green]As it should be.[/green]" if verdict.passed else "[red]Not right.[/red]")


def _report(
    verdict: Verdict, summaries: list[dict[str, Any]], transport: Transport, events: list[Event]
) -> dict[str, Any]:
    frames = sum(summary["frames"] for summary in summaries)
    seconds = sum(summary["seconds"] for summary in summaries)
    judged = asdict(verdict)
    strangers = {"seen": judged.pop("strangers_seen"), "unknown": judged.pop("strangers_unknown")}
    return judged | {
        "strangers": strangers,
        "frames": frames,
        "fps": round(frames / seconds, 1) if seconds else 0.0,
        "stage_ms": summaries[-1]["stage_ms"],  # of the lobby film, the larger one
        "transport": transport,
        "events": events,
    }


if __name__ == "__main__":
    main()
