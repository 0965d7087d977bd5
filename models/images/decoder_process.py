"""Pictures of rarer kinds are decoded in a process that may use little memory and time.

The decoders of TIFF, AVIF, HEIF, GIF and BMP take what a file claims, and no check of the file from
outside finds every claim: a tile of gigabytes in a TIFF of 100 × 100 pixels, a picture that is
larger inside than on its cover, a comment that is copied a hundred thousand times. So the system
limits what their process may use, and ends it where a picture wants more; the next picture starts
another. It ends by itself when there was no such picture for a minute.
"""

import atexit
import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import numpy as np

from models.types import BgrImage
from shared.errors import MalformedInput, MusterError, TooLarge, UnsupportedMedia

_COMMAND: Final = (
    sys.executable,
    "-P",
    "-c",
    "from models.images.decoder_process import main; main()",
)
_FRUGAL: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_WALL_S: Final = 30.0  # on a machine that is busy with other things
_IDLE_S: Final = 60.0
_MEMORY_BYTES: Final = 512 << 20  # besides what the pixels need
_BYTES_A_PIXEL: Final = 24  # of all copies of a picture while it is decoded
_LAST_S: Final = 5.0  # from its last word to its end
_NO_MEMORY: Final = 3  # its status when it ends for want of memory
_ENDED_BY_ITSELF: Final = (0, _NO_MEMORY)  # as nobody asked, or as other pictures had used it up
_ERRORS: Final[dict[str, type[MusterError]]] = {
    error.code: error for error in (MalformedInput, TooLarge, UnsupportedMedia)
}


class PictureChild:
    """The process, started for the first picture. Thread-safe: one picture at a time."""

    def __init__(self, processor_s: int = 10) -> None:
        """`processor_s`: what a picture may take, of a processor's time."""
        self._processor_s = processor_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._starter_pid = 0  # this process's number, when it was started

    def decode(self, data: bytes, max_pixels: int) -> BgrImage:
        """The picture in `data` (h, w, 3), as `models.images.decoding.decoded_here` makes it.

        Raises what that raises, and MalformedInput for a picture that costs more than it may.
        """
        question = {
            "bytes": len(data),
            "max_pixels": max_pixels,
            "processor_s": self._processor_s,
        }
        line = json.dumps(question).encode() + b"\n"
        with self._lock:
            fresh = self._process is None or self._starter_pid != os.getpid()
            image = self._ask(line, data)
            if isinstance(image, int) and image in _ENDED_BY_ITSELF and not fresh:
                image = self._ask(line, data)
        if isinstance(image, int):
            raise MalformedInput(
                "the picture takes more memory or time to decode than one of its size may: it is "
                "damaged, or made to do so; save it again as a JPEG"
            )
        return image

    def close(self) -> None:
        """Let it end."""
        with self._lock:
            self._end()

    def _ask(self, question: bytes, data: bytes) -> BgrImage | int:
        """The picture, or the status with which the process ended instead."""
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        too_late = threading.Timer(_WALL_S, process.kill)
        too_late.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(question)
                process.stdin.write(data)
                process.stdin.flush()
            head = process.stdout.readline()
            reply = json.loads(head) if head else None
            if reply is not None and "code" not in reply:
                pixels = bytearray(reply["height"] * reply["width"] * 3)
                if process.stdout.readinto(pixels) == len(pixels):  # type: ignore[attr-defined]
                    image = np.frombuffer(pixels, dtype=np.uint8)
                    return image.reshape(reply["height"], reply["width"], 3)
        finally:
            too_late.cancel()
        if reply is None or "code" not in reply:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_S)
            self._end()
            return process.returncode
        raise _ERRORS[reply["code"]](reply["message"], **reply["details"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._starter_pid != os.getpid():
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_FRUGAL},
            )
            self._starter_pid = os.getpid()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._starter_pid != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait()


CHILD: Final = PictureChild()
"""Of this process."""
atexit.register(CHILD.close)


def main() -> None:
    """Decode pictures from standard input; their pixels, or why there are none, go out."""
    from models.images.decoding import PictureLimits, decoded_here

    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    with contextlib.suppress(OSError):  # where memory is short, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        question = json.loads(line)
        data = sys.stdin.buffer.read(question["bytes"])
        _limit(question["max_pixels"], question["processor_s"])
        try:
            image = decoded_here(data, PictureLimits(len(data), question["max_pixels"]))
        except MemoryError:
            sys.exit(_NO_MEMORY)
        except MusterError as error:
            head = {"code": error.code, "message": error.message, "details": error.details}
            _tell(json.dumps(head).encode())
        else:
            height, width = image.shape[:2]
            _tell(json.dumps({"height": height, "width": width}).encode(), image.data)


def _limit(max_pixels: int, processor_s: int) -> None:
    """What the next picture may use."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES + max_pixels * _BYTES_A_PIXEL),
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + processor_s),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(
            kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


def _tell(head: bytes, pixels: bytes | memoryview = b"") -> None:
    sys.stdout.buffer.write(head + b"\n")
    sys.stdout.buffer.write(pixels)
    sys.stdout.buffer.flush()
