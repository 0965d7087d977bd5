"""The whole path: two films go in, names come out, over both transports."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from demo.cast import ENROLLED
from demo.processes import find_broker
from demo.verdict import people_by_lane

ROOT = Path(__file__).parents[2]


@pytest.mark.models
@pytest.mark.parametrize(
    "transport",
    [
        "http",
        pytest.param(
            "mqtt",
            marks=[
                pytest.mark.broker,
                pytest.mark.skipif(find_broker() is None, reason="no mosquitto on this machine"),
            ],
        ),
    ],
)
def test_everyone_is_known_by_name_and_the_stranger_by_none(transport: str, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    command = [sys.executable, "-m", "demo", "--exit", "--json", str(report_file)]
    done = subprocess.run(
        [*command, "--transport", transport], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_file.read_text())
    assert report["expected"] == [person.name for person in ENROLLED]
    assert sorted(report["identified"]) == sorted(report["expected"])
    assert report["misidentified"] == []
    assert report["missed"] == []
    assert report["strangers"]["seen"] == report["strangers"]["unknown"] > 0
    assert report["frames"] == 120 + 375
    assert report["transport"] == transport
    assert {"detect", "locate", "embed", "frame"} <= report["stage_ms"].keys()
    cameras = {event["camera"] for event in report["events"]}
    assert cameras == {"car", "lobby"}
    for name in report["identified"]:
        assert name in done.stdout


def test_the_lanes_of_the_film_tell_people_apart() -> None:
    assert len(set(people_by_lane().values())) == len(people_by_lane())


@pytest.mark.models
@pytest.mark.parametrize(
    "wish", [signal.SIGTERM, signal.SIGHUP], ids=["stopped", "terminal closed"]
)
def test_the_demo_takes_everything_with_it_when_it_is_ended(wish: signal.Signals) -> None:
    command = [sys.executable, "-m", "demo", "--transport", "http"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        page = re.search(r"http://\S+", demo.stdout.readline())
        assert page is not None
        demo.send_signal(wish)
        demo.stdout.read()
    assert demo.returncode == 128 + wish
    with pytest.raises(requests.ConnectionError):
        requests.get(page[0], timeout=10)
