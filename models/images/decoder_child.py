"""The program of the decoder process (`decoder_process`): it decodes pictures within limits."""

import contextlib
import json
import resource
import select
import sys
from pathlib import Path
from typing import Final

from models.images.decoder_process import NO_MEMORY
from models.images.decoding import PictureLimits, decoded_here
from shared.errors import MusterError

_IDLE_S: Final = 60.0
_MEMORY_BYTES: Final = 512 << 20  # besides what the pixels need
_BYTES_A_PIXEL: Final = 24  # of all copies of a picture while it is decoded


def main() -> None:
    """Decodes pictures from standard input; writes their pixels, or errors, to standard output."""
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    with contextlib.suppress(OSError):  # the system ends this process first if memory is short
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["bytes"])
        _limit(request["max_pixels"], request["processor_s"])
        try:
            image = decoded_here(data, PictureLimits(len(data), request["max_pixels"]))
        except MemoryError:
            sys.exit(NO_MEMORY)
        except MusterError as error:
            head = {"code": error.code, "message": error.message, "details": error.details}
            _reply(json.dumps(head).encode())
        else:
            height, width = image.shape[:2]
            _reply(json.dumps({"height": height, "width": width}).encode(), image.data)


def _limit(max_pixels: int, processor_s: int) -> None:
    """Limits memory and processor time of the next picture."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES + max_pixels * _BYTES_A_PIXEL),
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + processor_s),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(
            kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


def _reply(head: bytes, pixels: bytes | memoryview = b"") -> None:
    sys.stdout.buffer.write(head + b"\n")
    sys.stdout.buffer.write(pixels)
    sys.stdout.buffer.flush()
