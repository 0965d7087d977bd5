"""Reads Raspberry Pi cameras through the program `rpicam-vid` (libcamera)."""

import shutil
import subprocess
from typing import Final

from edge_agent.capture.stall import LEAST_S
from edge_agent.capture.subprocess_source import FD, PipeCommand, SubprocessSource
from shared.errors import SourceError

DEFAULT_SIZE: Final = (1280, 720)
_ALIGNED: Final = 128  # bytes to which a Pi 5 pads rows; a Pi 4 to 64
_FRAME_TIMEOUT_S: Final = 15.0
_MAX_PADDING: Final = 512


def open_rpicam(
    spec: str, size: tuple[int, int] | None, fps: float | None, stall_s: float = LEAST_S
) -> SubprocessSource:
    """Opens `rpicam:<number>`. Raises SourceError without the program, or for an invalid size.

    The program pads each row of a frame to an unknown length. Rows of a multiple of 128 bytes have
    no padding on any board; for another width, the length of one frame is measured first.
    """
    number = spec.removeprefix("rpicam:") or "0"
    if not number.isdecimal():
        raise SourceError(f"{spec!r} is not rpicam:0, rpicam:1, …", source=spec)
    width, height = size or DEFAULT_SIZE
    if width % 2 or height % 2:
        raise SourceError(f"{spec}: width and height must be even numbers", source=spec)
    row_bytes = width if expects_no_padding(width) else measured_row_bytes(spec, (width, height))
    arguments = [*_command(spec, (width, height)), "--timeout", "0", "--output", f"/dev/fd/{FD}"]
    if fps:
        arguments += ["--framerate", f"{fps:g}"]
    command = PipeCommand(tuple(arguments), (width, height), planar=True, row_bytes=row_bytes)
    return SubprocessSource(spec, command, stall_s)


def expects_no_padding(width: int) -> bool:
    """Whether rows of this width have no padding on any board."""
    return width % _ALIGNED == 0


def measured_row_bytes(spec: str, size: tuple[int, int]) -> int:
    """Bytes of a luma row with its padding, measured by the length of one frame."""
    width, height = size
    try:
        done = subprocess.run(
            [*_command(spec, size), "--frames", "1", "--output", "-"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FRAME_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"{spec} gives no frame in {_FRAME_TIMEOUT_S:.0f} s", source=spec
        ) from None
    length = len(done.stdout)
    if not length:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise SourceError(f"{spec} gives no frame: {''.join(reason) or 'no reason given'}")
    row_bytes, rest = divmod(length * 2, height * 3)
    if rest or row_bytes % 2 or not width <= row_bytes <= width + _MAX_PADDING:
        raise SourceError(
            f"{spec} gives frames of {length} bytes, which are not {width} × {height}: choose a "
            f"width that is a multiple of {_ALIGNED}, such as 640, 1280 or 1920",
            source=spec,
        )
    return row_bytes


def _command(spec: str, size: tuple[int, int]) -> list[str]:
    program = shutil.which("rpicam-vid") or shutil.which("libcamera-vid")
    if program is None:
        raise SourceError(
            f"{spec} needs rpicam-vid (Raspberry Pi OS: package rpicam-apps)", source=spec
        )
    words = f"--nopreview --codec yuv420 --camera {spec.removeprefix('rpicam:') or '0'}"
    return [program, *words.split(), "--width", str(size[0]), "--height", str(size[1])]
