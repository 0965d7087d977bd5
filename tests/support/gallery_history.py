"""A feed of changes that can be replayed: each change follows from its number.

Run as a program it follows the feed in a directory, sealing often, until it is killed.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.gallery import DiskIndex, open_gallery

D = 48


def rows_of(ids: NDArray[np.uint64], seq: int) -> NDArray[np.float32]:
    rows = np.stack([np.random.default_rng([int(each), seq]).standard_normal(D) for each in ids])
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    return unit


def change(seq: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Ids that change `seq` removes, and those that it adds (some new, some again)."""
    rng = np.random.default_rng(seq)
    removed = rng.integers(0, 5 * seq + 1, 3).astype(np.uint64)
    added = np.arange(5 * seq, 5 * seq + 4, dtype=np.uint64)
    return removed, np.unique(np.concatenate([added, removed[:1]]))


def content(seq: int) -> dict[int, NDArray[np.float16]]:
    """Returns the content of a gallery after change `seq`."""
    there: dict[int, NDArray[np.float16]] = {}
    for each in range(1, seq + 1):
        removed, added = change(each)
        for gone in removed.tolist():
            there.pop(gone, None)
        there |= dict(zip(added.tolist(), rows_of(added, each).astype(np.float16), strict=True))
    return there


def follow(gallery: DiskIndex, to: int) -> None:
    for seq in range(gallery.watermark + 1, to + 1):
        removed, added = change(seq)
        gallery.apply(seq - 1, seq, remove=removed, ids=added, vectors=rows_of(added, seq))


def opened(directory: Path) -> DiskIndex:
    gallery = open_gallery(directory, D, threads=1)
    assert isinstance(gallery, DiskIndex)
    return gallery


def held(gallery: DiskIndex) -> dict[int, NDArray[np.float16]]:
    """Returns the content of a gallery, read from its segments."""
    rows = {}
    for view in gallery._views:
        for place in view.live_places().tolist():
            each = int(view.segment.ids[place])
            assert each not in rows
            rows[each] = np.array(view.segment.rows[place])
    return rows


def main(directory: str) -> None:
    gallery = opened(Path(directory))
    assert gallery.damage is None, gallery.damage
    print("following", flush=True)
    while True:
        follow(gallery, gallery.watermark + 3)
        gallery.seal(wait=False)


if __name__ == "__main__":
    main(sys.argv[1])
