"""Cameras behind a child process: GStreamer and Raspberry Pi cameras without bindings.

PyPI's OpenCV is built without GStreamer. So the child writes raw frames into a pipe of its own, and
nothing is encoded or decoded on the way.
"""

import contextlib
import fcntl
import os
import re
import select
import shlex
import shutil
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.jpeg_decoding import require_size
from edge_agent.capture.opencv_source import as_bgr
from edge_agent.capture.stall import LEAST_S
from models.types import BgrImage
from shared.addresses import pipeline_secrets, redacted, redacted_text
from shared.errors import SourceError

_START_S: Final = 15.0
_KEPT_LINES: Final = 8
_PIPE_BYTES: Final = 1024 * 1024  # what an unprivileged process may ask for
FD: Final = "{fd}"
_WIDTH: Final = re.compile(r"fdsink-muster.*\bwidth=\(int\)(\d+)")
_HEIGHT: Final = re.compile(r"fdsink-muster.*\bheight=\(int\)(\d+)")


@dataclass(frozen=True, slots=True)
class PipeCommand:
    """A command that writes raw frames to the file descriptor that stands for `{fd}`.

    `size` (width, height) where it is known before; else the child says it on its standard output
    in GStreamer's words (`width=(int)640`). `planar` frames are I420 whose luma rows have
    `row_bytes` (default: the width) and whose chroma rows half of it; others are BGR with rows
    padded to four bytes. `secrets` are words that the child may repeat and a log must not hold.
    """

    arguments: tuple[str, ...]
    size: tuple[int, int] | None
    planar: bool
    row_bytes: int | None = None
    secrets: tuple[str, ...] = ()


def gstreamer_command(pipeline: str) -> PipeCommand:
    """`gst-launch-1.0` for a pipeline without its sink; SourceError where it is not installed."""
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise SourceError(
            "a GStreamer pipeline needs gst-launch-1.0 (Debian: gstreamer1.0-tools and"
            " gstreamer1.0-plugins-base) or an OpenCV that is built with GStreamer",
            source=redacted(pipeline),
        )
    head = re.sub(r"\s*!\s*(appsink|fdsink)\b[^!]*$", "", pipeline)
    tail = f"! videoconvert ! video/x-raw,format=BGR ! fdsink name=fdsink-muster fd={FD} sync=false"
    try:
        words = [program, "-v", *shlex.split(head), *shlex.split(tail)]
    except ValueError as error:
        raise SourceError(
            f"the GStreamer pipeline has a quote without an end: {error}", source=redacted(pipeline)
        ) from error
    secrets = tuple(pipeline_secrets(pipeline))
    return PipeCommand(tuple(words), None, planar=False, secrets=secrets)


class PipeSource:
    """The frames of a child process. A child that is silent for `stall_s` has stalled."""

    live, stills = True, False

    def __init__(self, name: str, command: PipeCommand, stall_s: float = LEAST_S) -> None:
        """Starts the child; SourceError when it ends, or says no frame size in 15 s."""
        self._name = name
        self._stall_s = stall_s
        self._planar = command.planar
        self._row_bytes = command.row_bytes
        self._secrets = command.secrets
        self._size = command.size
        self._rows: NDArray[np.uint8] = np.empty((0, 0), np.uint8)  # of the frame, as it came
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._told = threading.Event()
        self._frames, self._child = _start(command)
        self._listener = threading.Thread(target=self._listen, name="pipe-words", daemon=True)
        self._listener.start()
        if self._size is None:
            self._told.wait(_START_S)
        if self._size is None:
            self.close()
            raise self._over("cannot be started")
        try:
            require_size(name, *self._size)
        except SourceError:
            self.close()
            raise

    def grab(self) -> float:
        width, height = self._size or (0, 0)
        if self._planar:
            self._rows = self._read_rows(height * 3 // 2, self._row_bytes or width)
        else:
            self._rows = self._read_rows(height, (width * 3 + 3) // 4 * 4)
        return time.monotonic()

    def retrieve(self) -> BgrImage:
        width, height = self._size or (0, 0)
        if self._planar:
            return as_bgr(cv2.cvtColor(unpadded(self._rows, width), cv2.COLOR_YUV2BGR_I420))
        return np.ascontiguousarray(self._rows[:, : width * 3]).reshape(height, width, 3)

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(1.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._listener.join(1.0)
        if self._frames >= 0:
            os.close(self._frames)
            self._frames = -1

    def _read_rows(self, rows: int, stride: int) -> NDArray[np.uint8]:
        """One frame of `rows` × `stride` bytes; SourceError when it does not come in time."""
        buffer = np.empty((rows, stride), np.uint8)
        rest = buffer.data.cast("B")
        poll = select.poll()  # not select(), which knows no descriptor beyond 1023
        poll.register(self._frames, select.POLLIN)
        while rest:
            if not poll.poll(self._stall_s * 1000):
                raise self._over(f"has given nothing for {self._stall_s:.3g} s")
            count = os.readv(self._frames, [rest])
            if not count:
                raise self._over("gives no pictures any more")
            rest = rest[count:]
        return buffer

    def _listen(self) -> None:
        """Reads what the child says: the frame's size, and the reason if it fails."""
        words = self._child.stdout
        if words is None:
            raise SourceError(f"{self._name} was started without a pipe for its words")
        with words:
            for line in words:
                text = line.decode(errors="replace").strip()
                width, height = _WIDTH.search(text), _HEIGHT.search(text)
                if self._size is None and width and height:
                    self._size = (int(width[1]), int(height[1]))
                    self._told.set()
                elif re.search(r"error|fail|cannot|no ", text, re.IGNORECASE):
                    self._said.append(redacted_text(text, self._secrets))
        self._told.set()

    def _over(self, what: str) -> SourceError:
        reason = "; ".join(self._said) or "it said no reason"
        return SourceError(f"{self._name} {what}: {reason}", source=self._name)


def unpadded(rows: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """I420 rows (height × 3/2, row bytes) without what pads them: (height × 3/2, width)."""
    row_bytes = rows.shape[1]
    if row_bytes == width:
        return rows
    height = rows.shape[0] * 2 // 3
    chroma = rows[height:].reshape(height, row_bytes // 2)[:, : width // 2]
    return np.concatenate([rows[:height, :width], chroma.reshape(height // 2, width)])


def _start(command: PipeCommand) -> tuple[int, subprocess.Popen[bytes]]:
    """The reading end of a new pipe, and the child that writes into it."""
    frames, writing_end = os.pipe()
    try:
        with contextlib.suppress(OSError):  # a small pipe is slower, not wrong
            fcntl.fcntl(frames, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        child = subprocess.Popen(
            [word.replace(FD, str(writing_end)) for word in command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing_end,),
        )
    except OSError as error:
        os.close(frames)
        raise SourceError(f"{command.arguments[0]} cannot be started: {error}") from error
    finally:
        os.close(writing_end)
    return frames, child
