"""Changes of published graphs, compared with the reader and writer of the onnx package."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.packs.manifest import Step
from models.packs.protobuf import Message
from models.packs.surgery import operate, without_parametric_relus
from shared.errors import PackError
from tests.support import graphs


def changed(path: Path, *steps: Step) -> onnx.ModelProto:
    operate(path, path.with_name("changed.onnx"), steps)
    return onnx.load(path.with_name("changed.onnx"))


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_an_unchanged_message_keeps_every_byte(tmp_path: Path) -> None:
    data = graphs.channel_means(tmp_path / "graph.onnx").read_bytes()
    message = Message(data)
    for graph in message.messages(7):
        graph.messages(1)
    assert message.encode() == data


def test_integers_are_read_packed_and_unpacked_and_negative() -> None:
    packed = TensorProto(dims=[3], int64_data=[-1, 0, 1 << 40]).SerializeToString()
    assert Message(packed).integers(7) == [-1, 0, 1 << 40]
    unpacked = Message()
    for value in (-1, 300):
        unpacked.add(7, value)
    assert Message(unpacked.encode()).integers(7) == [-1, 300]
    assert list(TensorProto.FromString(unpacked.encode()).int64_data) == [-1, 300]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_weights_and_constants_are_changed_in_either_encoding(tmp_path: Path, raw: bool) -> None:
    def tensor(name: str, kind: int, values: list[float]) -> TensorProto:
        array = np.array(values, np.float32 if kind == TensorProto.FLOAT else np.int64)
        data = array.tobytes() if raw else values
        return helper.make_tensor(name, kind, [len(values)], data, raw=raw)

    graph = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], ["shape"], value=tensor("", TensorProto.INT64, [1, -1])
            ),
            helper.make_node("Add", ["input", "weights"], ["sum"]),
            helper.make_node("Reshape", ["sum", "shape"], ["output"]),
        ],
        "constant",
        [graphs.floats("input", (1, 3))],
        [graphs.floats("output", (1, 3))],
        [tensor("weights", TensorProto.FLOAT, [1.0, 1e-39, -1e-30])],
    )
    path = graphs.save(tmp_path / "graph.onnx", graph)
    model = changed(path, "flush-denormals", "dynamic-batch")
    (weights,) = model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weights), np.array([1, 0, 0], np.float32))
    (attribute,) = model.graph.node[0].attribute
    np.testing.assert_array_equal(numpy_helper.to_array(attribute.t), [0, -1])
    assert shape(model.graph.input[0]) == shape(model.graph.output[0]) == ["batch", 3]
    (answer,) = graphs.Session(path.with_name("changed.onnx")).run(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(answer, [[2, 1, 1], [2, 1, 1]])


def test_weights_that_are_listed_as_inputs_keep_their_shape(tmp_path: Path) -> None:
    weights = np.ones((1, 3, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weights"], ["output"])],
        "listed",
        [graphs.floats("input", (1, 3, 8, 8)), graphs.floats("weights", weights.shape)],
        [graphs.floats("output", (1, 1, 8, 8))],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = graphs.save(tmp_path / "graph.onnx", graph)
    model = changed(path, "dynamic-batch", "dynamic-size")
    assert [shape(value) for value in model.graph.input] == [
        ["batch", 3, "input_h", "input_w"],
        [1, 3, 1, 1],
    ]
    assert shape(model.graph.output[0]) == ["batch", 1, "output_h", "output_w"]


@pytest.mark.parametrize(
    "data",
    [b"", b"this is no graph", b"\x3a\x05\x0a", b"\x3a\xff", b"\x3a\x02\x0a\x09"],
    ids=["empty", "text", "short", "short size", "short part"],
)
def test_files_that_are_not_graphs_are_errors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(data)
    with pytest.raises(PackError, match=r"graph\.onnx is not an ONNX graph"):
        operate(tmp_path / "graph.onnx", tmp_path / "out.onnx", ["flush-denormals"])


@pytest.mark.parametrize("slope", [[0.25, -0.5, 1.75, 0.0], [0.25]], ids=["channels", "all"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_other_nodes_in_place_of_a_prelu_compute_the_same(
    tmp_path: Path, raw: bool, slope: list[float]
) -> None:
    slopes = np.array(slope, np.float32)
    data = slopes.tobytes() if raw else slopes
    graph = helper.make_graph(
        [helper.make_node("PRelu", ["input", "slopes"], ["output"])],
        "prelu",
        [graphs.floats("input", ("batch", 4, 5, 5))],
        [graphs.floats("output", ("batch", 4, 5, 5))],
        [helper.make_tensor("slopes", TensorProto.FLOAT, (len(slope), 1, 1), data, raw=raw)],
    )
    path = graphs.save(tmp_path / "graph.onnx", graph)
    rewritten = onnx.load_from_string(without_parametric_relus(path.read_bytes()))
    onnx.checker.check_model(rewritten, full_check=True)
    assert "PRelu" not in {node.op_type for node in rewritten.graph.node}
    values = np.random.default_rng(0).normal(0, 3, (2, 4, 5, 5)).astype(np.float32)
    expected = np.where(values > 0, values, values * slopes[:, np.newaxis, np.newaxis])
    onnx.save(rewritten, path)
    (result,) = graphs.Session(path).run(values)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_a_prelu_whose_slopes_are_not_of_channels_is_kept(tmp_path: Path) -> None:
    slopes = np.full((5,), 0.25, np.float32)  # of columns
    graph = helper.make_graph(
        [helper.make_node("PRelu", ["input", "slopes"], ["output"])],
        "prelu",
        [graphs.floats("input", (1, 4, 5, 5))],
        [graphs.floats("output", (1, 4, 5, 5))],
        [numpy_helper.from_array(slopes, "slopes")],
    )
    data = graphs.save(tmp_path / "graph.onnx", graph).read_bytes()
    rewritten = onnx.load_from_string(without_parametric_relus(data))
    assert rewritten == onnx.load_from_string(data)
