"""The models in 8 bits: speed, size, and loss of accuracy.

Static quantisation by ONNX Runtime (QDQ, weights per channel, calibrated on portraits that are not
the ones tested).
"""

import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.face_models import FaceModels
from models.onnx_session import Session
from models.packs.store import require
from models.preprocessing import Layout
from shared.wire.template import unit_rows
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.tables import Row, interleaved, median, p95, print_table

_ENOUGH = 20  # portraits
Batch = NDArray[np.float32]


def bench_int8(models: FaceModels, portraits: list[Portrait], repetitions: int = 40) -> list[Row]:
    """Detector and embedder, as published and in 8 bits, alternately on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _compare("detector", Path(folder), _scenes(portraits), repetitions, _missed),
            _compare("embedder", Path(folder), _chips(models, portraits), repetitions, None),
        ]
    embedder = rows[1][1]
    scores = _scores(embedder, models, portraits)
    table: list[Row] = [row for row, _ in rows]
    print_table(f"8-bit models on {platform.machine()}, one thread, ms", table)
    print_table("Cosines of the embedder's templates: 32 bits and 8 bits", scores)
    return [*table, *scores]


def _compare(
    role: str,
    folder: Path,
    inputs: list[Batch],
    repetitions: int,
    loss: Callable[[Session, Session, list[Batch]], float] | None,
) -> tuple[Row, tuple[Session, Session]]:
    pack = require("compact")
    file = next(one for one in pack.pack.files if one.role == role)
    small = folder / f"{role}-int8.onnx"
    _quantise(pack.path(file), small, inputs[::2])
    full, eight = Session(pack.path(file)), Session(small)
    sample = inputs[1]
    times = interleaved(
        {"full": lambda: full.run(sample), "int8": lambda: eight.run(sample)},
        repetitions=repetitions,
    )
    row: Row = {
        "model": role,
        "ratio": round(median(times["int8"]) / median(times["full"]), 2),
        "ms_32_bit": median(times["full"]),
        "ms_8_bit": median(times["int8"]),
        "p95_32_bit": p95(times["full"]),
        "p95_8_bit": p95(times["int8"]),
        "mib_32_bit": round(pack.path(file).stat().st_size / 2**20, 2),
        "mib_8_bit": round(small.stat().st_size / 2**20, 2),
        "faces_missed": None if loss is None else loss(full, eight, inputs[1::2]),
    }
    return row, (full, eight)


def _quantise(source: Path, target: Path, inputs: list[Batch]) -> None:
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = Session(source)._input_name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Batch]] = iter({name: batch} for batch in inputs)

        def get_next(self) -> dict[str, Batch] | None:
            return next(self._feeds, None)

    prepared = target.with_suffix(".prepared.onnx")
    # Scales per channel came with operator set 13; these graphs are older.
    newer = target.with_suffix(".newer.onnx")
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 13), newer)
    quant_pre_process(newer, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _scenes(portraits: list[Portrait]) -> list[Batch]:
    """Pictures of 320 × 240 with one face each, as the detector takes them."""
    layout = _layout("detector")
    batches = []
    for number, portrait in enumerate(portraits):
        picture = np.full((240, 320, 3), 100 + number, np.uint8)
        scale = (40 + 3 * (number % 20)) / portrait.face_width
        small = cv2.resize(portrait.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        part = small[:240, :320]
        picture[: part.shape[0], : part.shape[1]] = part
        batches.append(layout.batch([picture]))
    return batches


def _missed(full: Session, eight: Session, inputs: list[Batch]) -> float:
    """The share of pictures whose face 32 bits detect and 8 bits do not."""
    detected = [float(full.run(image)[0][0, :, 1].max()) >= 0.65 for image in inputs]
    again = [float(eight.run(one)[0][0, :, 1].max()) >= 0.65 for one in inputs]
    lost = sum(was and not still for was, still in zip(detected, again, strict=True))
    return round(lost / max(1, sum(detected)), 3)


def _chips(models: FaceModels, portraits: list[Portrait]) -> list[Batch]:
    layout = _layout("embedder")
    batches = []
    for portrait in portraits:
        detections = models.detect(portrait.image, retry_padded=True)
        shapes = models.locate(portrait.image, detections.take(np.array([0])))
        batches.append(layout.batch(list(models.align(portrait.image, shapes.points5))))
    return batches


def _scores(
    embedders: tuple[Session, Session], models: FaceModels, portraits: list[Portrait]
) -> list[Row]:
    """Mated and non-mated cosines of the portraits that were not calibrated on, by bits.

    Where the samples are too few, all of them are used.
    """
    tested = slice(1, None, 2) if len(portraits) >= _ENOUGH else slice(None)
    batches = _chips(models, portraits)[tested]
    people = np.array([portrait.person for portrait in portraits[tested]])
    same = people[:, None] == people[None, :]
    pairs = np.triu(np.ones_like(same), 1)
    full, eight = (
        unit_rows(np.concatenate([session.run(batch)[0] for batch in batches]))
        for session in embedders
    )
    rows: list[Row] = []
    for name, first, second in (
        ("32 bits", full, full),
        ("8 bits", eight, eight),
        ("8 bits against 32", eight, full),
    ):
        cosines = first @ second.T
        mated, others = cosines[same & pairs], cosines[~same & pairs]
        rows.append(
            {
                "templates": name,
                "mated_mean": round(float(mated.mean()), 3),
                "mated_min": round(float(mated.min()), 3),
                "mated_below_0.35": int((mated < 0.35).sum()),
                "non_mated_mean": round(float(others.mean()), 3),
                "non_mated_max": round(float(others.max()), 3),
                "mated_pairs": len(mated),
                "non_mated_pairs": len(others),
                "same_chip_mean": round(float((first * second).sum(axis=1).mean()), 4),
            }
        )
    return rows


def _layout(role: str) -> Layout:
    file = next(one for one in require("compact").pack.files if one.role == role)
    if file.input is None:
        raise ValueError(f"{file.name} declares no input")
    return Layout(file.input)
