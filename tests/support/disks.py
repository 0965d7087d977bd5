"""Real small file systems: one that becomes full, and one that fails or loses its power."""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of a few MiB or less."""

    folder: Path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def fill(self) -> Path:
        """Use up all blocks. Returns the file that holds them."""
        ballast = self.folder / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        return ballast


@contextlib.contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[SmallDisk]:
    """Skips the test where mounting is not allowed."""
    folder.mkdir()
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"):
        yield SmallDisk(folder)


_OPTIONS = "loop,errors=remount-ro"
_EXT4_SHUTDOWN, _WITHOUT_THE_JOURNAL = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, and its flag


@dataclass(frozen=True)
class FragileDisk:
    """An ext4 file system that the kernel makes read-only after an error, also with open files."""

    folder: Path
    device: str
    image: Path

    def cut_power(self) -> None:
        """Let the file system stop: what has not reached the disk until now never will."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_SHUTDOWN, struct.pack("I", _WITHOUT_THE_JOURNAL))
        finally:
            os.close(descriptor)

    def mount_again(self) -> None:
        """Mount what is on the disk, after `cut_power`. No process may have a file of it open."""
        subprocess.run(["umount", str(self.folder)], check=True)
        subprocess.run(["mount", "-o", _OPTIONS, str(self.image), str(self.folder)], check=True)

    def fail(self) -> None:
        Path(f"/sys/fs/ext4/{self.device}/trigger_fs_error").write_text("1", "ascii")
        with pytest.raises(OSError, match="Read-only"):
            (self.folder / "more").touch()


@contextlib.contextmanager
def fragile_disk(folder: Path, megabytes: int) -> Iterator[FragileDisk]:
    """Skips the test where mounting is not allowed, or the kernel cannot inject the error."""
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    made = _call("mkfs.ext4", "-q", "-F", str(image))
    if made is not None:
        pytest.skip(f"no ext4 can be made here: {made}")
    folder.mkdir()
    with _mounted(folder, "-o", _OPTIONS, str(image)):
        mounts = Path("/proc/self/mounts").read_text("utf-8").splitlines()
        device = next(line.split()[0] for line in mounts if line.split()[1] == str(folder))
        disk = FragileDisk(folder, Path(device).name, image)
        if not Path(f"/sys/fs/ext4/{disk.device}/trigger_fs_error").exists():
            pytest.skip("this kernel's ext4 has no error to try")
        yield disk


@contextlib.contextmanager
def _mounted(folder: Path, *arguments: str) -> Iterator[None]:
    refused = _call("mount", *arguments, str(folder))
    if refused is not None:
        pytest.skip(f"nothing can be mounted here: {refused}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _call(*command: str) -> str | None:
    """None if it succeeds, else the reason."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()
