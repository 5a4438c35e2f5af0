"""The frozen TensorFlow graph of the Inception network of 2015-12-05, with any weights.

Its nodes have the names that evaluator.py looks for. They are written one by one as in a graph of 2015,
because TensorFlow refuses the old operator BatchNormWithGlobalNormalization in newer ones.
"""
# pyright: reportMissingModuleSource=false
# TensorFlow is installed only in the environment in which this runs.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.graph_pb2 import GraphDef

_PRODUCER = 8  # the version of graphs of 2015


def build(weights: Mapping[str, np.ndarray]) -> bytes:
    """The serialised graph. weights: every tensor of tests/golden/inception_weights.py."""
    graph = _Graph(weights)
    x = _stem(graph, _preprocessing(graph))
    for i, block in enumerate(("Mixed_5b", "Mixed_5c", "Mixed_5d")):
        x = _block_a(graph, f"mixed_{i}" if i else "mixed", block, x)
    x = _block_b(graph, "mixed_3", "Mixed_6a", x)
    for i, block in enumerate(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")):
        x = _block_c(graph, f"mixed_{4 + i}", block, x)
    x = _block_d(graph, "mixed_8", "Mixed_7a", x)
    x = _block_e(graph, "mixed_9", "Mixed_7b", x, pool="AvgPool")
    x = _block_e(graph, "mixed_10", "Mixed_7c", x, pool="MaxPool")
    _classifier(graph, x)
    assert graph.unused == set(), graph.unused
    return graph.definition.SerializeToString()


class _Graph:
    """A graph that grows node by node; every method returns the name of the node that it has added."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights, self.unused = weights, set(weights)
        self.definition = GraphDef()
        self.definition.versions.producer = _PRODUCER

    def node(self, operator: str, name: str, inputs: Sequence[str] = (), **attributes: Any) -> str:
        node = self.definition.node.add(op=operator, name=name, input=inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(_attribute(value))
        return name

    def layer(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.node(operator, name, inputs, T=tf.float32, **attributes)

    def constant(self, name: str, value: np.ndarray) -> str:
        return self.node("Const", name, dtype=tf.as_dtype(value.dtype), value=value)

    def weight(self, name: str, key: str, axes: Sequence[int] | None = None) -> str:
        """The tensor `key` of the weights, with its axes permuted."""
        self.unused.discard(key)
        return self.constant(name, np.ascontiguousarray(self.weights[key].transpose(axes or (0,))))

    def convolution(self, name: str, key: str, x: str, stride: int = 1, padding: str = "SAME") -> str:
        """Convolution, batch normalisation and ReLU, of which the last has the plain name."""
        kernel = self.weight(f"{name}/conv2d_params", f"{key}.conv.weight", (2, 3, 1, 0))
        strides = [1, stride, stride, 1]
        x = self.layer("Conv2D", f"{name}/Conv2D", [x, kernel], strides=strides, padding=padding)
        statistics = [
            self.weight(f"{name}/batchnorm/moving_mean", f"{key}.bn.running_mean"),
            self.weight(f"{name}/batchnorm/moving_variance", f"{key}.bn.running_var"),
            self.weight(f"{name}/batchnorm/beta", f"{key}.bn.bias"),
            self.weight(f"{name}/batchnorm/gamma", f"{key}.bn.weight"),
        ]
        x = self.layer(
            "BatchNormWithGlobalNormalization",
            f"{name}/batchnorm",
            [x, *statistics],
            variance_epsilon=0.001,
            scale_after_normalization=True,
        )
        return self.layer("Relu", name, [x])

    def tower(
        self, scope: str, branch: str, parts: Sequence[str], x: str, stride: int = 1, padding: str = "SAME"
    ) -> str:
        """Convolutions in a row, of which the last has this stride and padding."""
        *names, last = [f"{scope}/conv_{i}" if i else f"{scope}/conv" for i in range(len(parts))]
        for name, part in zip(names, parts[:-1], strict=True):
            x = self.convolution(name, branch + part, x)
        return self.convolution(last, branch + parts[-1], x, stride, padding)

    def pool(
        self, kind: str, name: str, x: str, size: int = 3, stride: int = 1, padding: str = "SAME"
    ) -> str:
        window, strides = [1, size, size, 1], [1, stride, stride, 1]
        return self.layer(kind, name, [x], ksize=window, strides=strides, padding=padding)

    def concatenation(self, name: str, inputs: Sequence[str]) -> str:
        axis = self.constant(f"{name}/concat_dim", np.asarray(3, np.int32))
        return self.layer("Concat", name, [axis, *inputs], N=len(inputs))


def _attribute(value: Any) -> AttrValue:
    match value:
        case tf.DType():
            return AttrValue(type=value.as_datatype_enum)
        case np.ndarray():
            return AttrValue(tensor=tf.make_tensor_proto(value))
        case bool():
            return AttrValue(b=value)
        case int():
            return AttrValue(i=value)
        case float():
            return AttrValue(f=value)
        case str():
            return AttrValue(s=value.encode())
        case list():
            return AttrValue(list=AttrValue.ListValue(i=value))
    raise TypeError(f"no attribute of a node is a {type(value).__name__}")


def _preprocessing(graph: _Graph) -> str:
    """A JPEG file → (1, 299, 299, 3) in −1 … 1. evaluator.py feeds its images into ExpandDims."""
    x = graph.node("Placeholder", "DecodeJpeg/contents", dtype=tf.string)
    x = graph.node("DecodeJpeg", "DecodeJpeg", [x], channels=3)
    x = graph.node("Cast", "Cast", [x], SrcT=tf.uint8, DstT=tf.float32)
    x = graph.layer(
        "ExpandDims", "ExpandDims", [x, graph.constant("ExpandDims/dim", np.asarray(0, np.int32))]
    )
    size = graph.constant("ResizeBilinear/size", np.asarray([299, 299], np.int32))
    x = graph.layer("ResizeBilinear", "ResizeBilinear", [x, size], align_corners=False)
    x = graph.layer("Sub", "Sub", [x, graph.constant("Sub/y", np.asarray(128, np.float32))])
    return graph.layer("Mul", "Mul", [x, graph.constant("Mul/y", np.asarray(1 / 128, np.float32))])


def _stem(graph: _Graph, x: str) -> str:
    x = graph.convolution("conv", "Conv2d_1a_3x3", x, 2, "VALID")
    x = graph.convolution("conv_1", "Conv2d_2a_3x3", x, 1, "VALID")
    x = graph.convolution("conv_2", "Conv2d_2b_3x3", x)
    x = graph.pool("MaxPool", "pool", x, 3, 2, "VALID")
    x = graph.convolution("conv_3", "Conv2d_3b_1x1", x, 1, "VALID")
    x = graph.convolution("conv_4", "Conv2d_4a_3x3", x, 1, "VALID")
    return graph.pool("MaxPool", "pool_1", x, 3, 2, "VALID")


def _pooled(graph: _Graph, scope: str, block: str, x: str, kind: str = "AvgPool") -> str:
    """The branch of a pooling and a 1×1 convolution."""
    pooled = graph.pool(kind, f"{scope}/tower_2/pool", x)
    return graph.convolution(f"{scope}/tower_2/conv", f"{block}.branch_pool", pooled)


def _block_a(graph: _Graph, scope: str, block: str, x: str) -> str:
    branches = [
        graph.convolution(f"{scope}/conv", f"{block}.branch1x1", x),
        graph.tower(f"{scope}/tower", f"{block}.branch5x5", ["_1", "_2"], x),
        graph.tower(f"{scope}/tower_1", f"{block}.branch3x3dbl", ["_1", "_2", "_3"], x),
        _pooled(graph, scope, block, x),
    ]
    return graph.concatenation(f"{scope}/join", branches)


def _block_b(graph: _Graph, scope: str, block: str, x: str) -> str:
    branches = [
        graph.convolution(f"{scope}/conv", f"{block}.branch3x3", x, 2, "VALID"),
        graph.tower(f"{scope}/tower", f"{block}.branch3x3dbl", ["_1", "_2", "_3"], x, 2, "VALID"),
        graph.pool("MaxPool", f"{scope}/pool", x, 3, 2, "VALID"),
    ]
    return graph.concatenation(f"{scope}/join", branches)


def _block_c(graph: _Graph, scope: str, block: str, x: str) -> str:
    branches = [
        graph.convolution(f"{scope}/conv", f"{block}.branch1x1", x),
        graph.tower(f"{scope}/tower", f"{block}.branch7x7", ["_1", "_2", "_3"], x),
        graph.tower(f"{scope}/tower_1", f"{block}.branch7x7dbl", ["_1", "_2", "_3", "_4", "_5"], x),
        _pooled(graph, scope, block, x),
    ]
    return graph.concatenation(f"{scope}/join", branches)


def _block_d(graph: _Graph, scope: str, block: str, x: str) -> str:
    branches = [
        graph.tower(f"{scope}/tower", f"{block}.branch3x3", ["_1", "_2"], x, 2, "VALID"),
        graph.tower(f"{scope}/tower_1", f"{block}.branch7x7x3", ["_1", "_2", "_3", "_4"], x, 2, "VALID"),
        graph.pool("MaxPool", f"{scope}/pool", x, 3, 2, "VALID"),
    ]
    return graph.concatenation(f"{scope}/join", branches)


def _block_e(graph: _Graph, scope: str, block: str, x: str, pool: str) -> str:
    short = graph.tower(f"{scope}/tower", f"{block}.branch3x3", ["_1"], x)
    long = graph.tower(f"{scope}/tower_1", f"{block}.branch3x3dbl", ["_1", "_2"], x)
    branches = [
        graph.convolution(f"{scope}/conv", f"{block}.branch1x1", x),
        graph.convolution(f"{scope}/tower/mixed/conv", f"{block}.branch3x3_2a", short),
        graph.convolution(f"{scope}/tower/mixed/conv_1", f"{block}.branch3x3_2b", short),
        graph.convolution(f"{scope}/tower_1/mixed/conv", f"{block}.branch3x3dbl_3a", long),
        graph.convolution(f"{scope}/tower_1/mixed/conv_1", f"{block}.branch3x3dbl_3b", long),
        _pooled(graph, scope, block, x, pool),
    ]
    return graph.concatenation(f"{scope}/join", branches)


def _classifier(graph: _Graph, x: str) -> None:
    x = graph.pool("AvgPool", "pool_3", x, 8, 1, "VALID")
    shape = graph.constant("pool_3/_reshape/shape", np.asarray([-1, 2048], np.int32))
    x = graph.layer("Reshape", "pool_3/_reshape", [x, shape])
    weights = graph.weight("softmax/weights", "fc.weight", (1, 0))
    x = graph.layer("MatMul", "softmax/logits/MatMul", [x, weights])
    x = graph.layer("BiasAdd", "softmax/logits", [x, graph.weight("softmax/biases", "fc.bias")])
    graph.layer("Softmax", "softmax", [x])
