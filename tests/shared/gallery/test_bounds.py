"""The proof of docs/gallery.md, tried: no similarity may lie outside of its bound."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.kernels import CompiledKernel, compiled_kernels
from shared.gallery.numpy_kernel import NumpyKernel
from shared.gallery.scan import Kernel
from shared.gallery.segment import GROUP, Segment, SegmentView, full_view, new_segment
from tests.shared.gallery.conftest import Rows, random_rows, unit
from tests.shared.gallery.test_search import SHAPES

DEPTHS = (0, 1, 2)
BEST = compiled_kernels()[:1]
DECAYS = {"isotropic": 0.0, "middling": 0.28, "strongly decaying": 0.325}


def shelved(kernel: Kernel, rows: Rows, *, at: int = 0) -> SegmentView:
    """Rows encoded by the kernel, from place `at` on (places before stay empty)."""
    book = CodeBook(rows.shape[1])
    segment = new_segment(book, at + rows.shape[0])
    kernel.encode(book, segment, at, rows, at + rows.shape[0], 2)
    return full_view(replace(segment, count=at + rows.shape[0], order=None))


def decoded(book: CodeBook, segment: Segment) -> list[NDArray[np.int64]]:
    """What the planes say at each depth, (places, width) whole numbers, the slow way."""
    line, j, byte = np.meshgrid(
        np.arange(book.width // 16), np.arange(4), np.arange(4), indexing="ij"
    )
    order = (16 * line + 4 * j + byte).ravel()
    bits = []
    for plane in (segment.planes.high, segment.planes.mid):
        lanes = plane.reshape(plane.shape[0], -1, GROUP, 4).transpose(0, 2, 1, 3)
        two = (lanes[:, :, :, None, :] >> (2 * np.arange(4))[:, None]) & 3
        values = np.empty((GROUP * plane.shape[0], book.width), dtype=np.int64)
        values[:, order] = two.reshape(values.shape)
        bits.append(values)
    index = 4 * bits[0] + bits[1]
    low = segment.planes.low
    nibbles = np.concatenate([low & 15, low >> 4], axis=1).astype(np.int64)
    levels = book.levels16.astype(np.int64)[index]
    return [book.levels4.astype(np.int64)[bits[0]], levels, levels + nibbles - 8]


def rotated_exactly(book: CodeBook, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ideal rotation in double precision, by definition: matrices of Hadamard and signs."""
    span = 1 << (book.width.bit_length() - 1)
    transform = np.ones((1, 1))
    while transform.shape[0] < span:
        transform = np.block([[transform, transform], [transform, -transform]])
    transform /= math.sqrt(span)
    lanes = np.zeros((book.width, rows.shape[0]))
    lanes[: book.dimension] = rows.T
    for signs in book.signs:
        lanes *= signs[:, None]
        lanes[:span] = transform @ lanes[:span]
        if span < book.width:
            lanes[-span:] = transform @ lanes[-span:]
    return lanes.T


@pytest.mark.parametrize("dimension", [1, 5, 128, 200, 384, 512, 1000])
def test_the_stored_errors_are_those_of_the_codes_rounded_up(
    kernel: Kernel, dimension: int
) -> None:
    book = CodeBook(dimension)
    rng = np.random.default_rng(dimension)
    rows = np.concatenate([shape(rng, 20, dimension) for shape in SHAPES])
    segment = shelved(kernel, rows).segment
    stored = segment.rows[: rows.shape[0]]
    assert stored.tobytes() == rows.astype(np.float16).tobytes()
    exact = rotated_exactly(book, stored.astype(np.float64))
    for depth, codes in zip(DEPTHS, decoded(book, segment), strict=True):
        true = np.linalg.norm(exact - book.step * codes[: rows.shape[0]], axis=1)
        kept = segment.planes.errors[depth, : rows.shape[0]] * 2.0**-15
        assert (true <= kept).all()
        assert (kept <= true * 1.001 + 2.0**-14).all()


@pytest.mark.parametrize("dimension", [3, 128, 200, 512])
def test_all_kernels_write_the_same_codes(kernel: Kernel, dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    rows = np.concatenate([shape(rng, 7, dimension) for shape in SHAPES])
    mine, reference = (shelved(k, rows, at=5).segment for k in (kernel, NumpyKernel()))
    assert mine.rows.tobytes() == reference.rows.tobytes()
    assert mine.planes.high.tobytes() == reference.planes.high.tobytes()
    assert mine.planes.mid.tobytes() == reference.planes.mid.tobytes()
    assert mine.planes.low.tobytes() == reference.planes.low.tobytes()
    assert mine.planes.errors.tobytes() == reference.planes.errors.tobytes()


def test_one_row_at_a_time_gives_the_codes_of_all_at_once(kernel: Kernel) -> None:
    rows = random_rows(40, 200)
    book, whole = CodeBook(200), shelved(kernel, rows).segment
    segment = new_segment(book, 40)
    for i in range(40):
        kernel.encode(book, segment, i, rows[i : i + 1], i + 1, 1)
    assert segment.planes.high.tobytes() == whole.planes.high.tobytes()
    assert segment.planes.mid.tobytes() == whole.planes.mid.tobytes()
    assert segment.planes.low.tobytes() == whole.planes.low.tobytes()
    assert segment.planes.errors.tobytes() == whole.planes.errors.tobytes()


@pytest.mark.parametrize("fast", compiled_kernels(), ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dimension", [3, 200, 512])
def test_all_compiled_kernels_estimate_alike(fast: CompiledKernel, dimension: int) -> None:
    rows, book = random_rows(100, dimension), CodeBook(dimension)
    view = shelved(fast, rows)
    for probe in random_rows(5, dimension, seed=1):
        for depth in DEPTHS:
            mine = fast.bounds(book, view, probe, depth)
            portable = compiled_kernels()[-1].bounds(book, view, probe, depth)
            assert mine[0].tobytes() == portable[0].tobytes()
            assert mine[1].tobytes() == portable[1].tobytes()


@pytest.mark.parametrize("fast", BEST, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS.keys())
def test_no_bound_is_violated_by_any_of_a_hundred_million_pairs(
    fast: CompiledKernel, decay: float
) -> None:
    """Three spectra of 34,000 templates times 1,000 probes, half of them near a template."""
    rng = np.random.default_rng(int(1000 * decay))
    scale = np.arange(1, 513) ** -decay
    rows = unit(rng.standard_normal((34_000, 512)) * scale)
    probes = unit(rng.standard_normal((1000, 512)) * scale)
    probes[::2] = unit(rows[: 2 * 500 : 2] + 0.3 * probes[::2] * rng.random((500, 1)))
    view, book = shelved(fast, rows), CodeBook(512)
    stored = view.segment.rows[:34_000].astype(np.float64)
    tightest = [1.0, 1.0, 1.0]
    for start in range(0, 1000, 100):
        block = probes[start : start + 100]
        similarities = block.astype(np.float64) @ stored.T
        for probe, true in zip(block, similarities, strict=True):
            for depth in DEPTHS:
                estimates, margins = fast.bounds(book, view, probe, depth)
                estimates -= np.pad(true, (0, estimates.shape[0] - true.shape[0]))
                used = np.abs(estimates[:34_000]) / margins[:34_000]
                tightest[depth] = min(tightest[depth], 1 - float(used.max()))
    assert min(tightest) >= 0
    assert max(tightest) < 0.9  # nor are the margins wide guesses


@pytest.mark.parametrize("fast", BEST, ids=lambda kernel: kernel.name)
def test_the_bound_holds_and_is_nearly_met_where_the_probe_is_the_remainder(
    fast: CompiledKernel,
) -> None:
    """The worst case: a probe along what the code leaves out of a template, or against it."""
    rows, book = random_rows(200, 512), CodeBook(512)
    view = shelved(fast, rows)
    back = rotated_exactly(book, np.eye(512)).T
    exact = view.segment.rows[:200].astype(np.float64)
    least_used = (0.8, 0.6, 0.25)  # the finer the code, the more the probe's own rounding counts
    for depth, codes in zip(DEPTHS, decoded(book, view.segment), strict=True):
        approximate = (book.step * codes[:200]) @ back
        for i in range(0, 200, 10):
            for sign in (1, -1):
                probe = unit(sign * (exact[i] - approximate[i])[None])[0]
                estimates, margins = fast.bounds(book, view, probe, depth)
                distance = abs(float(probe.astype(np.float64) @ exact[i]) - estimates[i])
                assert least_used[depth] * margins[i] <= distance <= margins[i]
