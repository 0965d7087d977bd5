"""The compiled kernel (kernel/module.c). All buffers are contiguous; sizes are checked."""

from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]
_Book = tuple[object, ...]
_Planes = tuple[int, _Array, _Array, _Array, _Array]
_Segment = tuple[_Planes, _Array, _Array, _Array]

def kernels() -> list[str]: ...
def encode(
    kernel: str,
    threads: int,
    book: _Book,
    vectors: _Array | None,
    rows: _Array,
    planes: _Planes,
    first: int,
    last: int,
    /,
) -> None: ...
def search(
    kernel: str,
    threads: int,
    book: _Book,
    segments: list[_Segment],
    probes: _Array,
    count: int,
    limits: _Array,
    thresholds: _Array,
    ids: _Array,
    similarities: _Array,
    counts: _Array,
    /,
) -> None: ...
def bounds(
    kernel: str,
    book: _Book,
    segment: _Segment,
    probe: _Array,
    depth: int,
    estimates: _Array,
    margins: _Array,
    /,
) -> None: ...
def choose(
    ids: _Array, order: _Array | None, count: int, among: _Array, number: int, bits: _Array, /
) -> None: ...
def find(
    ids: _Array,
    order: _Array | None,
    count: int,
    alive: _Array,
    targets: _Array,
    number: int,
    places: _Array,
    /,
) -> None: ...
def read(buffer: _Array, threads: int, /) -> int: ...
