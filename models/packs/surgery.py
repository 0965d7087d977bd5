"""What installation does to a published graph so that it runs fast and takes batches."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from models.packs.manifest import Step
from shared.errors import PackError

_DENORMAL = 1e-20
"""Weights smaller than this are zero in all but name, and make a CPU's arithmetic crawl."""


def operate(source: Path, target: Path, steps: Iterable[Step]) -> None:
    """Write to `target` the graph of `source` after `steps`; PackError when it is no graph."""
    try:
        model = onnx.load(source)
    except Exception as error:  # protobuf's errors are not part of a public tree
        raise PackError(f"{source.name} is not an ONNX graph: {error}") from error
    for step in steps:
        if step == "flush-denormals":
            flush_denormals(model)
        elif step == "dynamic-batch":
            free_batch(model)
        else:
            free_size(model)
    onnx.save(model, target)


def flush_denormals(model: onnx.ModelProto) -> int:
    """Set all |w| < 1e-20 to zero and return how many there were."""
    flushed = 0
    for tensor in _weights(model):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        tiny = (np.abs(values) < _DENORMAL) & (values != 0)
        if tiny.any():
            flushed += int(tiny.sum())
            clean = np.where(tiny, np.float32(0), values)
            tensor.CopyFrom(numpy_helper.from_array(clean, tensor.name))
    return flushed


def free_batch(model: onnx.ModelProto) -> None:
    """Let the first dimension be any: in inputs, outputs, and reshapes that had it fixed."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in weights:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in _weights(model, names=shapes):
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and shape.size > 1 and shape[0] == 1:
            shape[0] = 0  # a reshape's 0 keeps the dimension that comes in
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    del model.graph.value_info[:]


def free_size(model: onnx.ModelProto) -> None:
    """Let height and width be any (of a graph that is convolutions throughout)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and len(dims) == 4:
            dims[2].dim_param, dims[3].dim_param = f"{value.name}_h", f"{value.name}_w"
    del model.graph.value_info[:]


def _weights(
    model: onnx.ModelProto, *, names: set[str] | None = None
) -> Iterable[onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes; with `names`, only those."""
    for tensor in model.graph.initializer:
        if names is None or tensor.name in names:
            yield tensor
    for node in model.graph.node:
        if node.op_type == "Constant" and (names is None or node.output[0] in names):
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield attribute.t
