"""Buffers a response that is made while the client still sends its request.

Most HTTP clients read nothing before they have sent everything. Sending a piece to such a client
would block: it would wait for the server to read, and the server for it to read, until a timeout.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_MEMORY_BYTES = 1024 * 1024
MAX_BYTES = 1024 * 1024 * 1024
"""Buffered at most: some four million verdicts. Then the client must read, or it is cut off."""
_PIECE_BYTES = 4 * 1024  # fits where the kernel says that there is room, with any network card
_LAST_BYTES = 64 * 1024


def buffered(
    pieces: Iterable[bytes], can_take: Callable[[], bool], folder: Path, max_bytes: int = MAX_BYTES
) -> Iterator[bytes]:
    """The bytes of the pieces in order; before the last piece, only when the client can take them.

    The buffer is in memory, and beyond 1 MiB in a file in `folder` without a name, which is gone
    with the request. Nothing is dropped: beyond `max_bytes` bytes are sent in any case.
    """
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES, dir=str(folder)) as buffer:
        sent = 0
        for piece in pieces:
            buffer.seek(0, 2)
            buffer.write(piece)
            end = buffer.tell()
            while sent < end and (end > max_bytes or can_take()):
                buffer.seek(sent)
                data = buffer.read(_PIECE_BYTES)
                sent += len(data)
                yield data
            if sent == end:
                sent = 0
                buffer.seek(0)
                buffer.truncate()
        buffer.seek(sent)
        while data := buffer.read(_LAST_BYTES):
            yield data
