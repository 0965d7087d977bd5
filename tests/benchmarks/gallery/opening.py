"""Opens a gallery in a process of its own and prints the seconds to the first answer, then the
bytes that are private, shared and resident but for the rows, and rows that were touched."""

import sys
import time
from pathlib import Path

import numpy as np

from match_server.gallery import open_gallery
from tests.benchmarks.gallery.people import DIMENSION


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def _resident(pattern: str) -> int:
    """Resident bytes of mapped files whose name ends so."""
    total, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            mine = line.endswith(pattern)
        elif mine and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


def main(folder: Path) -> None:
    probes = np.load(folder / "probes.npy")
    open_gallery(None, DIMENSION).search(probes[:1], 1)  # libraries and code are loaded
    before = _anonymous()
    started = time.perf_counter()
    gallery = open_gallery(folder / "gallery", DIMENSION)
    gallery.search(probes[:1], 10)
    first = time.perf_counter() - started
    gallery.close()  # stops the verification
    for probe in probes[:100]:
        gallery.search(probe[None], 10)
    count = len(gallery)
    scanned = sum(view.shelf.count for view in gallery._views) * (512 + 6 + 8)
    mapped = _resident(".segment")
    print(first, max(0, _anonymous() - before), min(mapped, scanned), max(0, mapped - scanned))
    assert count


if __name__ == "__main__":
    main(Path(sys.argv[1]))
