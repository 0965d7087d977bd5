"""Small ONNX graphs with known outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.onnx_session import Session
from models.preprocessing import InputSpec

_OPSET = [helper.make_opsetid("", 13)]


def save(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=_OPSET, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def floats(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def answering(
    path: Path, shape: Sequence[int | str], outputs: Mapping[str, NDArray[np.float32]]
) -> Session:
    """A session whose graph takes any input of `shape` and always returns `outputs`."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "answering",
        [floats("input", shape)],
        [floats(name, value.shape) for name, value in outputs.items()],
    )
    return Session(save(path, graph))


def channel_means(path: Path, batch: int | str = "batch", repeat: int = 1) -> Path:
    """A graph n × 3 × h × w → n × 3·repeat: each channel's mean, `repeat` times over."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Concat", ["means"] * repeat, ["output"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [floats("input", (batch, 3, "h", "w"))],
        [floats("output", (batch, 3 * repeat))],
    )
    return save(path, graph)


def fixed_reshape(path: Path, weights: NDArray[np.float32]) -> Path:
    """A graph 1 × k → 1 × m as exporters write it: multiplied by `weights`, reshaped to [1, −1]."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["product"]),
            helper.make_node("Reshape", ["product", "shape"], ["output"]),
        ],
        "fixed",
        [floats("input", (1, weights.shape[0]))],
        [floats("output", (1, weights.shape[1]))],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, -1], np.int64), "shape"),
        ],
    )
    return save(path, graph)


RGB = InputSpec(colour="rgb")
