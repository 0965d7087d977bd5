"""Hashes of templates, and the digest of a set of templates that a follower and the server compare.

They find faults of disks, programs and people who change rows by hand. They are no protection from
an attacker, who can compute other templates with the same hash: only keys protect from that.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.wire.template import MAX_DIMENSION

Hashes = NDArray[np.uint64]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_AT_ONCE: Final = 8192


def row_hashes(rows: NDArray[np.float16]) -> Hashes:
    """A hash (n,) of the bytes of each row (n, d), little-endian float16.

    A multilinear hash (Lemire, Kaser: "Strongly universal string hashing is fast", 2014): the sum
    of 32-bit words, each times an odd number of 64 bits. A change of one word, or of two bits,
    always changes it.
    """
    count, dimension = rows.shape
    words = -(-dimension // 2)
    if dimension % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    stored = np.ascontiguousarray(rows, dtype="<f2").view("<u4")
    hashes: Hashes = np.empty(count, dtype=np.uint64)
    for start in range(0, count, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        np.einsum("ij,j->i", stored[part], _multipliers()[:words], out=hashes[part])
    return hashes


def digest_of(numbers: NDArray[np.uint64], hashes: Hashes) -> str:
    """The digest of a set of templates, in any order: 16 hexadecimal digits.

    It is the sum of a value for each template that depends on its number and its hash.
    """
    total = int(_mixed(hashes ^ _mixed(numbers)).sum(dtype=np.uint64))
    return f"{total:016x}"


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea, Flood, 2014), for each value."""
    mixed = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@cache
def _multipliers() -> NDArray[np.uint64]:
    """Odd numbers of 64 bits, the same for ever: databases and boxes hold hashes made with them."""
    steps = np.arange(1, MAX_DIMENSION // 2 + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mixed(steps) | np.uint64(1)
