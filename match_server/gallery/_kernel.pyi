"""The compiled kernel (kernel/module.c). All buffers are contiguous; sizes are checked."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_Book = tuple[object, ...]
_Planes = tuple[int, Buffer, Buffer, Buffer, Buffer]
_Shelf = tuple[_Planes, Buffer, Buffer, Buffer]

def kernels() -> list[str]: ...
def encode(
    kernel: str,
    threads: int,
    book: _Book,
    vectors: Buffer | None,
    rows: Buffer,
    planes: _Planes,
    first: int,
    last: int,
    /,
) -> None: ...
def search(
    kernel: str,
    threads: int,
    book: _Book,
    shelves: list[_Shelf],
    probes: Buffer,
    count: int,
    limits: Buffer,
    thresholds: Buffer,
    ids: Buffer,
    similarities: Buffer,
    counts: Buffer,
    /,
) -> None: ...
def bounds(
    kernel: str,
    book: _Book,
    shelf: _Shelf,
    probe: Buffer,
    depth: int,
    estimates: Buffer,
    margins: Buffer,
    /,
) -> None: ...
def read(buffer: NDArray[np.uint64], threads: int, /) -> int: ...
