"""What holds for all tests."""

import gc
import os

import pytest

# Before any test loads NumPy. With a thread for each core in each of several processes, the threads
# of OpenBLAS mostly wait for each other: small products cost ten times as much.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# A test that needs several workers asks for them; each takes a second of processor time to start.
os.environ.setdefault("MUSTER_WORKERS", "1")

# For tests that import ONNX Runtime themselves, see `models.onnx_session`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_LONG = {"end_to_end", "test_contract.py", "test_sanitizers.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: begun last, they would run alone."""
    items.sort(key=lambda item: _LONG.isdisjoint(item.path.parts))


def pytest_collection_finish() -> None:
    """Spare the collector the loaded modules and four thousand tests, which stay until the end."""
    gc.collect()
    gc.freeze()
