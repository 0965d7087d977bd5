"""The threat model names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    _, _, model = text.partition("## Who may be hostile")
    named = set(re.findall(r"`(test_\w+)`", model.partition("\n## ")[0]))
    assert len(named) > 30
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text("utf-8"))
    }
    assert named <= there, f"the threat model names tests that are not there: {named - there}"
