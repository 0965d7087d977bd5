"""`python -m shared.gallery`: prints the kernel in use and the speed of memory."""

import sys
import time
from statistics import median

import numpy as np

from shared.gallery import open_gallery
from shared.gallery.kernels import best_kernel, compiled_kernels, usable_processors

_MEBIBYTES = 512


def read_bandwidth(threads: int, repeats: int = 7) -> float | None:
    """Measures how many bytes a second threads read from memory; None without compiled code."""
    try:
        from shared.gallery import _kernel
    except ImportError:
        return None
    block = np.ones(_MEBIBYTES << 17, dtype=np.uint64)
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        _kernel.read(block, threads)
        durations.append(time.perf_counter() - started)
    return block.nbytes / median(durations)


def report() -> str:
    """Returns the facts that an operator needs, as lines of text."""
    names = [kernel.name for kernel in compiled_kernels()]
    lines = [
        f"kernel in use     {best_kernel().name}",
        f"kernels that run  {', '.join([*names, 'numpy'])}",
        f"processors        {usable_processors()}",
    ]
    for threads in sorted({1, min(usable_processors(), 8)}):
        speed = read_bandwidth(threads)
        rate = "unknown without the compiled kernel" if speed is None else f"{speed / 1e9:.1f} GB/s"
        lines.append(f"memory, {threads} thread{'s' if threads > 1 else ' '} {rate:>12}")
    count = 100_000 if names else 2_000
    lines.append(f"a scan of {count:,} templates of 512 values takes {_scan_ms(count):.2f} ms")
    return "\n".join(lines)


def _scan_ms(count: int) -> float:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, 512), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery = open_gallery(None, 512)
    gallery.add(np.arange(count, dtype=np.uint64), rows)
    durations = []
    for probe in rows[:11]:
        started = time.perf_counter()
        gallery.search(probe[None], 10)
        durations.append(time.perf_counter() - started)
    return 1e3 * median(durations)


def main() -> None:
    sys.stdout.write(report() + "\n")


if __name__ == "__main__":
    main()
