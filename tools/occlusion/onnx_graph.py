"""The trained network as ONNX: batch normalisation folded into the convolutions, any batch size.

Written node by node: the graph is small, and so is what has to be installed for it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tools.occlusion.network import ConvBlock, OcclusionNet

_OPSET = 17


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self,
        name: str,
        source: str,
        kernel: NDArray[np.float32],
        bias: NDArray[np.float32],
        stride: int,
    ) -> str:
        return self.node(
            "Conv",
            name,
            source,
            self.weight(f"{name}.kernel", kernel),
            self.weight(f"{name}.bias", bias),
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=[kernel.shape[2] // 2] * 4,
        )

    def block(self, name: str, source: str, block: ConvBlock) -> str:
        norm = block.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        kernel = block.conv.weight * scale.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * scale
        conv = self.conv(f"{name}.conv", source, _array(kernel), _array(bias), block.conv.stride[0])
        return self.node("Relu", name, conv)

    def joined(self, name: str, low: str, high: str) -> str:
        """The coarse map `low`, doubled, with the finer map `high`."""
        doubled = self.node(
            "Resize",
            f"{name}.doubled",
            low,
            "",
            "scales",
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        return self.node("Concat", name, doubled, high, axis=1)


def write_graph(net: OcclusionNet, path: Path) -> None:
    """Write `net` to `path`: float32 n × 1 × 56 × 56 to probabilities n × 1 × 28 × 28."""
    graph = _Graph()
    graph.weight("scales", np.array([1, 1, 2, 2], np.float32))
    fine = graph.block("fine", graph.block("stem", "input", net.stem), net.fine)
    middle = graph.block("middle", graph.block("down", fine, net.down), net.middle)
    deep = graph.block("deep", middle, net.deep)
    deep = graph.node("Add", "placed", deep, graph.weight("place", _array(net.place)))
    deep = graph.block("deep3", graph.block("deep2", deep, net.deep2), net.deep3)
    up = graph.block("join_middle", graph.joined("both_middle", deep, middle), net.join_middle)
    up = graph.block("up_middle", up, net.up_middle)
    last = graph.block("join_fine", graph.joined("both_fine", up, fine), net.join_fine)
    last = graph.block("up_fine", last, net.up_fine)
    answer, bias = _array(net.answer.weight), _array(net.answer.bias)
    graph.node("Sigmoid", "covered", graph.conv("answer", last, answer, bias, 1))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "occlusion",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 56, 56])],
            [helper.make_tensor_value_info("covered", TensorProto.FLOAT, ["n", 1, 28, 28])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
        producer_name="muster",
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(values.detach().numpy(), np.float32)
