"""The kernel under AddressSanitizer and UndefinedBehaviorSanitizer: no byte beyond its buffers."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from shared import gallery

ROOT = Path(__file__).parents[3]
KERNEL = Path(gallery.__file__).parent / "kernel"
FLAGS = [
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-std=gnu11", "-ffp-contract=off", "-pthread"),
    *("-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
]
# Not those in which numpy stands for the kernel, nor those that take long by their numbers.
TESTS = "not numpy and not hundred_million and not brute_force and not claims_more and not 33000"
FILES = (
    "tests/shared/gallery/test_bounds.py",
    "tests/shared/gallery/test_id_filters.py",
    "tests/shared/gallery/test_search.py",
    "tests/attacks/test_segments.py",
)
_RUN = """
import importlib.util, sys
import pytest
import shared.gallery
spec = importlib.util.spec_from_file_location("shared.gallery._kernel", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules[spec.name] = shared.gallery._kernel = module
from tests.attacks.segments import run
status = pytest.main(sys.argv[2:])
print(run(1.0, 1))
sys.exit(status)
"""


def _library(name: str) -> str | None:
    try:
        command = ["cc", f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return path if Path(path).is_absolute() else None


def test_the_kernel_stays_within_its_buffers_and_does_nothing_undefined(tmp_path: Path) -> None:
    # libstdc++ first as well: else an exception of another library is thrown past the sanitizer.
    libraries = [_library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    if None in libraries:
        pytest.skip("there is no C compiler with its sanitizers here")
    built = tmp_path / "_kernel.abi3.so"
    include = f"-I{sysconfig.get_path('include')}"
    source = str(KERNEL / "module.c")
    subprocess.run(["cc", *FLAGS, include, source, "-o", str(built)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(str(one) for one in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # of the interpreter's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
    }
    arguments = ["-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", TESTS, *FILES]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(built), *arguments],
        check=False, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "galleries" in done.stdout
