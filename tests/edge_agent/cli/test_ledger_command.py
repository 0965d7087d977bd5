"""`edge-agent ledger`: the text and the JSON."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.cli.main import main
from edge_agent.config.loading import load_settings
from edge_agent.vision.recognition_ledger import Ledger


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'device = "box"\nstate_dir = "{tmp_path}"\n[[cameras]]\nname = "door"\nsource = "0"\n'
    )
    return path


def ask(config: Path, *options: str) -> tuple[int, str]:
    answer = CliRunner().invoke(main, ["ledger", "--config", str(config), *options])
    return answer.exit_code, answer.output


def test_it_says_why_in_plain_words_and_to_programs_in_factors(config: Path) -> None:
    ledger = Ledger(load_settings(config).ledger_path)
    today = datetime.now(UTC)
    for reason in (None, "yaw", "pitch", "sharpness"):
        ledger.enter("door", today, reason)
    ledger.enter("door", today - timedelta(days=20), "yaw")
    status, text = ask(config)
    assert status == 0
    assert text == f"{today:%Y-%m-%d} door: 4 faces, 1 sent; 2 turned away, 1 blurred\n"
    _, answer = ask(config, "--json", "--days", "30")
    days = json.loads(answer)
    assert [day["tracks"] for day in days] == [4, 1]
    assert days[0]["reasons"] == {"yaw": 1, "pitch": 1, "sharpness": 1}
    assert days[0]["plainly"] == {"turned away": 2, "blurred": 1}
    ledger.close()


def test_a_box_that_has_not_run_yet_is_one_line_and_status_1(config: Path) -> None:
    status, text = ask(config)
    assert status == 1
    assert text.startswith("edge-agent: there is no ledger")
