"""A service as systemd hears it, over a real socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.systemd import Watchdog, notify


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def received(listener: socket.socket) -> list[str]:
    words = []
    while True:
        try:
            words.append(listener.recv(1000).decode())
        except BlockingIOError:
            return words


def test_systemd_hears_what_is_said(systemd: socket.socket) -> None:
    notify("READY=1")
    assert received(systemd) == ["READY=1"]


def test_a_name_outside_the_file_system_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"muster-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("STOPPING=1")
        assert received(listener) == ["STOPPING=1"]


def test_nobody_listening_is_no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


def test_the_watchdog_speaks_three_times_in_its_interval_and_no_more(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    now = 100.0
    monkeypatch.setattr("shared.systemd.time.monotonic", lambda: now)
    watchdog = Watchdog()
    for _ in range(60):  # six seconds
        watchdog.alive()
        now += 0.1
    assert received(systemd) == ["WATCHDOG=1"] * 6


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_a_watchdog_that_nobody_asked_for_is_silent(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if "WATCHDOG_PID" in environment:
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Watchdog().alive()
    assert received(systemd) == []
