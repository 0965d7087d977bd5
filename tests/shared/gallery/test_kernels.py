"""Which kernel is taken, and what is said about it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigurationError
from shared.gallery import open_gallery
from shared.gallery.__main__ import report
from shared.gallery.kernels import best_kernel, compiled_kernels, kernel_named
from tests.shared.gallery.conftest import random_rows


def test_without_the_compiled_kernel_numpy_does_the_same_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, ids = random_rows(500, 64), np.arange(500, dtype=np.uint64)
    fast = open_gallery(None, 64)
    fast.add(ids, rows)
    monkeypatch.setitem(sys.modules, "shared.gallery._kernel", None)
    monkeypatch.delattr("shared.gallery._kernel")
    best_kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            slow, other = open_gallery(None, 64), open_gallery(None, 64)
        assert slow.kernel_name == other.kernel_name == "numpy"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "kernel in use     numpy" in report()
    finally:
        best_kernel.cache_clear()
    slow.add(ids, rows)
    for numpy_list, compiled_list in zip(
        slow.search(rows[:9], 7), fast.search(rows[:9], 7), strict=True
    ):
        assert numpy_list.ids.tolist() == compiled_list.ids.tolist()
        assert numpy_list.similarities.tobytes() == compiled_list.similarities.tobytes()


def test_processes_with_and_without_the_compiled_kernel_share_a_directory(tmp_path: Path) -> None:
    rows, ids = random_rows(300, 100), np.arange(300, dtype=np.uint64)
    kernels = [*compiled_kernels()[:1], kernel_named("numpy")]
    for writer in kernels:
        directory = tmp_path / writer.name
        gallery = open_gallery(directory, 100, kernel=writer)
        gallery.add(ids, rows)
        gallery.close()
        lists = [
            open_gallery(directory, 100, kernel=reader).search(rows[:5], 4) for reader in kernels
        ]
        for candidates in lists:
            assert [each.ids[0] for each in candidates] == [0, 1, 2, 3, 4]
            assert [each.ids.tolist() for each in candidates] == [e.ids.tolist() for e in lists[0]]


def test_a_kernel_that_does_not_run_here_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError, match="numpy"):
        kernel_named("abacus")


def test_the_doctor_names_the_kernel_and_the_speed_of_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "shared.gallery"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert f"kernel in use     {best_kernel().name}" in run.stdout
    assert "100,000 templates" in run.stdout


@pytest.mark.skipif(not compiled_kernels(), reason="the compiled kernel was not built")
def test_buffers_that_are_too_small_are_refused_before_anything_is_read() -> None:
    from shared.gallery import _kernel
    from shared.gallery.codebook import CodeBook

    book = CodeBook(64).packed
    small, name = np.zeros(8, dtype=np.uint8), compiled_kernels()[0].name
    planes = (4, small, small, small, small)
    with pytest.raises(ValueError, match="bytes"):
        _kernel.encode(name, 1, book, None, small, planes, 0, 64)
    with pytest.raises(ValueError, match="bytes"):
        _kernel.search(
            name, 1, book, [(planes, small, small, small)], small, 1, small, small, small, small,
            small,
        )  # fmt: skip
    with pytest.raises(ValueError, match="kernel"):
        _kernel.encode("abacus", 1, book, None, small, planes, 0, 0)
    fit = (0, small, small, small, small)
    with pytest.raises(ValueError, match="places"):
        _kernel.encode(name, 1, book, None, small, fit, 5, 3)
