"""A durable write replaces a file as a whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from shared.files import durable_file, write_durably


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    write_durably(tmp_path / "state", b"old")
    write_durably(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"
    assert names(tmp_path) == ["state"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_durably(tmp_path / "shared", b"", mode=0o644)
        os.umask(0o000)
        write_durably(tmp_path / "private", b"", mode=0o600)
        write_durably(tmp_path / "any", b"")
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("shared", "private", "any")
    ]
    assert modes == [0o644, 0o600, 0o666]


def test_until_the_block_ends_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_bytes(b"old")
    with durable_file(path, suffix=".partial") as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["backup", "backup.partial"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["backup"]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError(), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with durable_file(path) as file:
            file.write(b"half")
            raise error

    path = tmp_path / "state"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_a_failed_fsync_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("input/output error")

    path = tmp_path / "state"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output error"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_the_file_of_a_crashed_process_is_replaced(tmp_path: Path) -> None:
    crashed = tmp_path / "state.new"
    crashed.write_bytes(b"half of something longer")
    crashed.chmod(0o666)
    write_durably(tmp_path / "state", b"new", mode=0o600)
    assert (tmp_path / "state").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    assert names(tmp_path) == ["state"]


def test_content_and_rename_are_synced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real_fsync = os.fsync

    def record(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", names(tmp_path)))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_durably(tmp_path / "state", b"new")
    assert synced == [("file", ["state.new"]), ("folder", ["state"])]
