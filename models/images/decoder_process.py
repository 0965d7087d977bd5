"""Pictures of rare formats are decoded in a process with limited memory and time.

The decoders of TIFF, AVIF, HEIF, GIF and BMP trust the claims of a file, and no check of the file
finds every false claim: a tile of gigabytes in a TIFF of 100 × 100 pixels, a picture that is larger
than its header says, a comment that is copied a hundred thousand times. So the system limits the
process (`decoder_child`) and ends it if a picture needs more; the next picture starts another. The
process ends itself after a minute without pictures.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Final

import numpy as np

from models.types import BgrImage
from shared.errors import MalformedInput, MusterError, TooLarge, UnsupportedMedia

_COMMAND: Final = (
    sys.executable,
    "-P",
    "-c",
    "from models.images.decoder_child import main; main()",
)
_FRUGAL: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_WALL_S: Final = 30.0  # on a machine that is busy with other things
_LAST_S: Final = 5.0  # from the end of its output to the end of the process
NO_MEMORY: Final = 3  # exit status of the process when memory is short
_ENDED_BY_ITSELF: Final = (0, NO_MEMORY)  # it was idle, or memory was short
_ERRORS: Final[dict[str, type[MusterError]]] = {
    error.code: error for error in (MalformedInput, TooLarge, UnsupportedMedia)
}


class PictureChild:
    """The process, started for the first picture. Thread-safe: one picture at a time."""

    def __init__(self, processor_s: int = 10) -> None:
        """`processor_s`: limit of processor time for one picture."""
        self._processor_s = processor_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._starter_pid = 0  # this process's number, when it was started

    def decode(self, data: bytes, max_pixels: int) -> BgrImage:
        """Returns the picture in `data` (h, w, 3), as `models.images.decoding.decoded_here` does.

        Raises the errors of that function, and MalformedInput for a picture beyond the limits.
        """
        request = {
            "bytes": len(data),
            "max_pixels": max_pixels,
            "processor_s": self._processor_s,
        }
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            fresh = self._process is None or self._starter_pid != os.getpid()
            image = self._send(line, data)
            if isinstance(image, int) and image in _ENDED_BY_ITSELF and not fresh:
                image = self._send(line, data)
        if isinstance(image, int):
            raise MalformedInput(
                "the picture takes more memory or time to decode than one of its size may: it is "
                "damaged, or made to do so; save it again as a JPEG"
            )
        return image

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _send(self, request: bytes, data: bytes) -> BgrImage | int:
        """Returns the picture, or the exit status if the process ended instead."""
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        too_late = threading.Timer(_WALL_S, process.kill)
        too_late.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(request)
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
"""The decoder process of this process."""
atexit.register(CHILD.close)
