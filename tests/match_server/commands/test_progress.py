"""Progress of a long command: whole lines above its bar, plain lines without a terminal."""

import os
import pty
import re
import subprocess
import sys

from match_server.commands.progress import progress

_COMMAND = """
import sys
from match_server.commands.progress import progress
with progress("Reading", 3) as display:
    for place in range(3):
        display.print(f"line {place} of [red]text[/red] " + "x" * 100)
        display.update(place + 1, note="none refused")
        sys.stderr.flush()
"""


def _on_a_terminal(*, stdout_too: bool) -> tuple[str, str]:
    """Returns the output on a terminal of 80 columns, and that in a file for standard output."""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND],
        stdout=side if stdout_too else subprocess.PIPE,
        stderr=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(side)
    seen = b""
    try:
        while piece := os.read(terminal, 65_536):
            seen += piece
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    written = b"" if process.stdout is None else process.stdout.read()
    process.communicate()
    assert process.returncode == 0
    return seen.decode(), written.decode()


def _lines(seen: str) -> list[str]:
    """Returns the final lines of the terminal, without colours."""
    rows = seen.replace("\r\n", "\n").split("\n")
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", row.split("\x1b[2K")[-1]) for row in rows]
    return [row.rstrip().removeprefix("\r") for row in plain]


def test_lines_stand_whole_above_the_bar() -> None:
    seen, _ = _on_a_terminal(stdout_too=True)
    rows = _lines(seen)
    for place in range(3):
        assert f"line {place} of [red]text[/red] " + "x" * 100 in rows
    assert "3 of 3, none refused" in rows[-2]


def test_lines_go_to_the_file_that_standard_output_is() -> None:
    seen, written = _on_a_terminal(stdout_too=False)
    assert [row[:6] for row in written.splitlines()] == ["line 0", "line 1", "line 2"]
    assert "xxx" not in seen
    assert "3 of 3" in seen


def test_without_a_terminal_a_plain_line_comes_every_ten_seconds(capsys) -> None:
    now_s = 0.0
    with progress("Importing", 2000, clock=lambda: now_s) as display:
        for done in range(0, 1300, 100):
            now_s = done / 50
            display.update(done, note="7 refused")
        display.print("a verdict")
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "Importing: 500 of 2,000 (25%), 7 refused",
        "Importing: 1,000 of 2,000 (50%), 7 refused",
    ]
    assert output.out == "a verdict\n"


def test_what_is_counted_in_bytes_is_shown_as_a_share(capsys) -> None:
    now_s = 0.0
    with progress("Exporting", counts=False, clock=lambda: now_s) as display:
        now_s = 11.0
        display.update(5, 20)
    assert capsys.readouterr().err == "Exporting: 25%\n"
