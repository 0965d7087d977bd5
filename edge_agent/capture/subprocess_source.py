"""Reads cameras through a child process: GStreamer and Raspberry Pi cameras.

PyPI's OpenCV is built without GStreamer. The child writes raw frames into a pipe, so nothing is
encoded or decoded on the way.
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
_PIPE_BYTES: Final = 1024 * 1024  # the most for an unprivileged process
FD: Final = "{fd}"
_WIDTH: Final = re.compile(r"fdsink-muster.*\bwidth=\(int\)(\d+)")
_HEIGHT: Final = re.compile(r"fdsink-muster.*\bheight=\(int\)(\d+)")


@dataclass(frozen=True, slots=True)
class PipeCommand:
    """A command that writes raw frames to the file descriptor `{fd}`.

    `size` is (width, height), or None where the child writes it to its standard output in
    GStreamer's format (`width=(int)640`). `planar` frames are I420: their luma rows have
    `row_bytes` (default: the width), their chroma rows half of it. Other frames are BGR with rows
    padded to four bytes. `secrets` are words of the child's output that must not be logged.
    """

    arguments: tuple[str, ...]
    size: tuple[int, int] | None
    planar: bool
    row_bytes: int | None = None
    secrets: tuple[str, ...] = ()


def gstreamer_command(pipeline: str) -> PipeCommand:
    """The `gst-launch-1.0` command for a pipeline. Raises SourceError where it is not installed."""
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


class SubprocessSource:
    """The frames of a child process. It fails when it sends nothing for `stall_s`."""

    live, stills = True, False

    def __init__(self, name: str, command: PipeCommand, stall_s: float = LEAST_S) -> None:
        """Starts the child. Raises SourceError when it ends, or reports no frame size in 15 s."""
        self._name = name
        self._stall_s = stall_s
        self._planar = command.planar
        self._row_bytes = command.row_bytes
        self._secrets = command.secrets
        self._size = command.size
        self._rows: NDArray[np.uint8] = np.empty((0, 0), np.uint8)  # of the newest frame
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._size_known = threading.Event()
        self._frames, self._child = _start(command)
        self._listener = threading.Thread(target=self._listen, name="pipe-output", daemon=True)
        self._listener.start()
        if self._size is None:
            self._size_known.wait(_START_S)
        if self._size is None:
            self.close()
            raise self._failed("cannot be started")
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
        """Reads one frame of `rows` × `stride` bytes. Raises SourceError after the timeout."""
        buffer = np.empty((rows, stride), np.uint8)
        rest = buffer.data.cast("B")
        poll = select.poll()  # not select(), which knows no descriptor beyond 1023
        poll.register(self._frames, select.POLLIN)
        while rest:
            if not poll.poll(self._stall_s * 1000):
                raise self._failed(f"has given nothing for {self._stall_s:.3g} s")
            count = os.readv(self._frames, [rest])
            if not count:
                raise self._failed("gives no pictures any more")
            rest = rest[count:]
        return buffer

    def _listen(self) -> None:
        """Reads the output of the child: the frame's size, and the reasons of a failure."""
        output = self._child.stdout
        if output is None:
            raise SourceError(f"{self._name} was started without a pipe for its output")
        with output:
            for line in output:
                text = line.decode(errors="replace").strip()
                width, height = _WIDTH.search(text), _HEIGHT.search(text)
                if self._size is None and width and height:
                    self._size = (int(width[1]), int(height[1]))
                    self._size_known.set()
                elif re.search(r"error|fail|cannot|no ", text, re.IGNORECASE):
                    self._errors.append(redacted_text(text, self._secrets))
        self._size_known.set()

    def _failed(self, what: str) -> SourceError:
        reason = "; ".join(self._errors) or "no reason given"
        return SourceError(f"{self._name} {what}: {reason}", source=self._name)


def unpadded(rows: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """I420 rows (height × 3/2, row bytes) without their padding: (height × 3/2, width)."""
    row_bytes = rows.shape[1]
    if row_bytes == width:
        return rows
    height = rows.shape[0] * 2 // 3
    chroma = rows[height:].reshape(height, row_bytes // 2)[:, : width // 2]
    return np.concatenate([rows[:height, :width], chroma.reshape(height // 2, width)])


def _start(command: PipeCommand) -> tuple[int, subprocess.Popen[bytes]]:
    """Starts the child. Returns the reading end of its pipe, and the process."""
    frames, writing_end = os.pipe()
    try:
        with contextlib.suppress(OSError):  # a small pipe only costs speed
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
