"""Defaults of settings, where help texts and documents repeat them."""

import re
from pathlib import Path

import pytest

from match_server.commands.cli import main
from match_server.settings import Settings

ROOT = Path(__file__).parents[3]
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
TABLE_ROW = re.compile(r"^\| `(\w+)` \| ([\d,]+)\b", re.MULTILINE)


@pytest.mark.parametrize("command", ["serve", "ingest", "migrate"])
def test_help_texts_name_the_defaults_of_the_settings(command):
    options = {option.name: option for option in main.get_command(None, command).params}
    named = {
        name: match[1]
        for name in DEFAULTS.keys() & options.keys()
        if (match := re.search(r"\[default: (.*)\]", options[name].help or ""))
    }
    assert named == {name: str(DEFAULTS[name]) for name in named}
    assert "data_dir" in named


def test_tables_in_the_documents_name_the_defaults_of_the_settings():
    rows = [
        (name, float(number.replace(",", "")))
        for document in (ROOT / "docs").glob("*.md")
        for name, number in TABLE_ROW.findall(document.read_text(encoding="utf-8"))
        if name in DEFAULTS
    ]
    assert rows, "no document lists settings any more"
    assert [(name, number) for name, number in rows if number != DEFAULTS[name]] == []


@pytest.mark.parametrize(
    ("cores", "memory_gib", "expected"), [(1, 8, 1), (2, 8, 2), (4, 2, 2), (16, 64, 4), (4, 0.5, 1)]
)
def test_workers_are_chosen_by_cores_and_memory(monkeypatch, cores, memory_gib, expected):
    monkeypatch.delenv("MUSTER_WORKERS")
    monkeypatch.setattr("match_server.settings.usable_processors", lambda: cores)
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(memory_gib * 2**30) // 4096}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    assert Settings().worker_processes == expected
    assert Settings(workers=3).worker_processes == 3
