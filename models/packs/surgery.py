"""Changes a published ONNX graph so that it runs fast and takes batches."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.packs.manifest import Step
from models.packs.protobuf import Message
from shared.errors import PackError

_TINY = 1e-20
"""Smaller weights change no output, and denormal ones make a CPU's arithmetic many times slower."""


# Numbers of fields in onnx.proto3 (https://github.com/onnx/onnx), as far as the steps need them.
class _Graph(IntEnum):
    NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13


class _Node(IntEnum):
    INPUT, OUTPUT, OP_TYPE, ATTRIBUTE = 1, 2, 4, 5


class _Tensor(IntEnum):
    DIMS, TYPE, FLOATS, INT64S, NAME, RAW = 1, 2, 4, 7, 8, 9


class _Attribute(IntEnum):
    NAME, FLOAT, INTEGER, TENSOR, TYPE = 1, 2, 3, 5, 20


_MODEL_GRAPH = 7
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM = 1, 2, 1, 2, 1
_DIM_VALUE, _DIM_PARAM = 1, 2
_FLOAT, _INT64 = 1, 7  # types of tensors
_FLOAT_ATTRIBUTE, _INTEGER_ATTRIBUTE = 1, 2  # types of attributes


def operate(source: Path, target: Path, steps: Iterable[Step]) -> None:
    """Writes the graph of `source` to `target`, after `steps`. Raises PackError if it is none."""
    try:
        model = Message(source.read_bytes())
        (graph,) = model.messages(_MODEL_GRAPH)
        for step in steps:
            if step == "flush-denormals":
                flush_denormals(graph)
            elif step == "dynamic-batch":
                free_batch(graph)
            else:
                free_size(graph)
    except ValueError as error:
        raise PackError(f"{source.name} is not an ONNX graph: {error}") from error
    target.write_bytes(model.encode())


def flush_denormals(graph: Message) -> int:
    """Sets all weights with |w| < 1e-20 to zero and returns how many there were."""
    flushed = 0
    for tensor in _tensors(graph):
        if tensor.integers(_Tensor.TYPE) != [_FLOAT]:
            continue
        data = tensor.bytes_of(_Tensor.RAW) or tensor.bytes_of(_Tensor.FLOATS)
        values = np.frombuffer(data, dtype="<f4")
        tiny = (np.abs(values) < _TINY) & (values != 0)
        if tiny.any():
            flushed += int(tiny.sum())
            _replace(tensor, np.where(tiny, np.float32(0), values))
    return flushed


def free_batch(graph: Message) -> None:
    """Makes the first dimension dynamic: of inputs, of outputs, and in reshapes that fix it."""
    for value in _inputs_and_outputs(graph):
        for dimension in _dimensions(value)[:1]:
            _set_dynamic(dimension, "batch")
    shapes = {
        name
        for node in graph.messages(_Graph.NODE)
        if node.text(_Node.OP_TYPE) == "Reshape"
        for name in node.texts(_Node.INPUT)[1:2]
    }
    for tensor in _tensors(graph, names=shapes):
        data = tensor.bytes_of(_Tensor.RAW)
        shape = np.array(
            np.frombuffer(data, dtype="<i8") if data else tensor.integers(_Tensor.INT64S)
        )
        if tensor.integers(_Tensor.DIMS) == [shape.size] and shape.size > 1 and shape[0] == 1:
            shape[0] = 0  # a reshape copies the dimension of its input for a 0
            _replace(tensor, shape)
    graph.clear(_Graph.VALUE_INFO)


def free_size(graph: Message) -> None:
    """Makes height and width dynamic (in a graph that is convolutions throughout)."""
    for value in _inputs_and_outputs(graph):
        dimensions = _dimensions(value)
        if len(dimensions) == 4:
            _set_dynamic(dimensions[2], f"{value.text(_VALUE_NAME)}_h")
            _set_dynamic(dimensions[3], f"{value.text(_VALUE_NAME)}_w")
    graph.clear(_Graph.VALUE_INFO)


def without_parametric_relus(data: bytes) -> bytes:
    """Returns the graph in `data` with other nodes in place of each PRelu.

    ONNX Runtime has no PRelu for the layout in which its convolutions run on x86-64: it converts
    the values before each one and back after it, and computes it slowly. With one slope it is a
    LeakyRelu; with a slope for each channel it is x + (1 - slope) * Relu(-x), where convolutions of
    one pixel multiply. Raises ValueError if `data` is not a graph.
    """
    model = Message(data)
    (graph,) = model.messages(_MODEL_GRAPH)
    slopes = {
        tensor.text(_Tensor.NAME): values
        for tensor in graph.messages(_Graph.INITIALIZER)
        if (values := _values_of_channels(tensor)) is not None
    }
    nodes = graph.messages(_Graph.NODE)
    graph.clear(_Graph.NODE)
    for node in nodes:
        slope = slopes.get(node.texts(_Node.INPUT)[-1]) if _is_prelu(node) else None
        for part in [node] if slope is None else _without_prelu(graph, node, slope):
            graph.add(_Graph.NODE, part.encode())
    return model.encode()


def _is_prelu(node: Message) -> bool:
    return node.text(_Node.OP_TYPE) == "PRelu"


def _values_of_channels(tensor: Message) -> NDArray[np.float32] | None:
    """Returns the float values of a tensor (channels, 1, 1); None for another tensor."""
    shape = tensor.integers(_Tensor.DIMS)
    if tensor.integers(_Tensor.TYPE) != [_FLOAT] or len(shape) < 3 or shape[-2:] != [1, 1]:
        return None
    data = tensor.bytes_of(_Tensor.RAW) or tensor.bytes_of(_Tensor.FLOATS)
    values = np.frombuffer(data, dtype="<f4").astype(np.float32)
    return values if shape[-3] == len(values) else None


def _without_prelu(graph: Message, prelu: Message, slope: NDArray[np.float32]) -> list[Message]:
    """Returns the nodes instead of `prelu`; their weights are added to the graph."""
    x, y = prelu.texts(_Node.INPUT)[0], prelu.text(_Node.OUTPUT)
    if len(slope) == 1:  # of all channels
        leaky = _node("LeakyRelu", [x], y)
        alpha = _attribute("alpha", _FLOAT_ATTRIBUTE)
        alpha.add_float(_Attribute.FLOAT, float(slope[0]))
        leaky.add(_Node.ATTRIBUTE, alpha.encode())
        return [leaky]
    negated, positive, scaled = f"{y}/negated", f"{y}/positive", f"{y}/scaled"
    return [
        _channel_convolution(graph, x, negated, np.full_like(slope, -1)),
        _node("Relu", [negated], positive),
        _channel_convolution(graph, positive, scaled, 1 - slope),
        _node("Add", [scaled, x], y),
    ]


def _channel_convolution(
    graph: Message, source: str, target: str, factors: NDArray[np.float32]
) -> Message:
    """Returns a node that multiplies each channel by its factor."""
    weights = Message()
    for side in (len(factors), 1, 1, 1):
        weights.add(_Tensor.DIMS, side)
    weights.add(_Tensor.TYPE, _FLOAT)
    weights.add(_Tensor.NAME, f"{target}/factors".encode())
    weights.add(_Tensor.RAW, factors.astype("<f4").tobytes())
    graph.add(_Graph.INITIALIZER, weights.encode())
    node = _node("Conv", [source, f"{target}/factors"], target)
    groups = _attribute("group", _INTEGER_ATTRIBUTE)
    groups.add(_Attribute.INTEGER, len(factors))
    node.add(_Node.ATTRIBUTE, groups.encode())
    return node


def _attribute(name: str, kind: int) -> Message:
    attribute = Message()
    attribute.add(_Attribute.NAME, name.encode())
    attribute.add(_Attribute.TYPE, kind)
    return attribute


def _node(kind: str, inputs: Iterable[str], output: str) -> Message:
    node = Message()
    for name in inputs:
        node.add(_Node.INPUT, name.encode())
    node.add(_Node.OUTPUT, output.encode())
    node.add(_Node.OP_TYPE, kind.encode())
    return node


def _tensors(graph: Message, *, names: set[str] | None = None) -> Iterator[Message]:
    """Yields initializers and the tensors of Constant nodes; with `names`, only those."""
    for tensor in graph.messages(_Graph.INITIALIZER):
        if names is None or tensor.text(_Tensor.NAME) in names:
            yield tensor
    for node in graph.messages(_Graph.NODE):
        if node.text(_Node.OP_TYPE) == "Constant" and (
            names is None or node.text(_Node.OUTPUT) in names
        ):
            for attribute in node.messages(_Node.ATTRIBUTE):
                if attribute.text(_Attribute.NAME) == "value":
                    yield from attribute.messages(_Attribute.TENSOR)


def _inputs_and_outputs(graph: Message) -> list[Message]:
    """Returns the graph's inputs and outputs, without the weights that are listed as inputs."""
    weights = {tensor.text(_Tensor.NAME) for tensor in graph.messages(_Graph.INITIALIZER)}
    values = [*graph.messages(_Graph.INPUT), *graph.messages(_Graph.OUTPUT)]
    return [value for value in values if value.text(_VALUE_NAME) not in weights]


def _dimensions(value: Message) -> list[Message]:
    return [
        dimension
        for kind in value.messages(_VALUE_TYPE)
        for tensor in kind.messages(_TYPE_TENSOR)
        for shape in tensor.messages(_TENSOR_SHAPE)
        for dimension in shape.messages(_SHAPE_DIM)
    ]


def _set_dynamic(dimension: Message, name: str) -> None:
    dimension.clear(_DIM_VALUE, _DIM_PARAM)
    dimension.add(_DIM_PARAM, name.encode())


def _replace(tensor: Message, values: NDArray[np.float32] | NDArray[np.int64]) -> None:
    """Stores other values of the same type and shape as raw data."""
    name = tensor.bytes_of(_Tensor.NAME)
    tensor.clear(_Tensor.FLOATS, _Tensor.INT64S, _Tensor.NAME, _Tensor.RAW)
    if name:
        tensor.add(_Tensor.NAME, name)
    tensor.add(_Tensor.RAW, values.astype(values.dtype.newbyteorder("<")).tobytes())
