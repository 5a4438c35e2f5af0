"""The Inception of 2015-12-05, the network behind FID: torch-fidelity's layers, laid out for speed."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

from dit_eval.errors import AssetError
from dit_eval.features.network import Activations, read_weights
from dit_eval.runtime.onednn import linear

_SPATIAL_CHANNELS = 7


class Inception(nn.Module):
    """Resized images (N, 3, 299, 299) → pool (N, 2048), spatial (N, 2023), probabilities (N, 1008).

    spatial: `mixed_6/conv` of the graph, after batch norm and ReLU, first 7 channels of 17×17, flattened in
    the order height, width, channel. probabilities: softmax of the last layer without its bias.
    """

    dimensions = (2048, 17 * 17 * _SPATIAL_CHANNELS, 1008)  # pool, spatial, classes

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        network = _torch_fidelity_network(weights)
        self.classifier = nn.Parameter(network.fc.weight.detach(), requires_grad=False)
        _fold_batch_norm(network)
        layers = OrderedDict(network.named_children())
        del layers["fc"]
        self.layers = _pool_last(nn.Sequential(layers))
        self.layers.get_submodule("Mixed_6d.branch1x1").register_forward_hook(self._keep_spatial)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> Activations:
        """One pass over a resized batch."""
        pool = self.layers(x).flatten(1)
        rows = pool.expand(max(len(pool), 2), -1)  # a lone one would be summed in another order
        logits = linear(rows, self.classifier)[: len(pool)]
        return Activations(pool, self._spatial, torch.softmax(logits, dim=1))

    def _keep_spatial(self, _layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self._spatial = output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def load_inception(path: Path) -> Inception:
    """The network with the weights of a .pth or .safetensors file.

    Raises AssetError if the file cannot be read or is not an Inception of 2015-12-05.
    """
    return Inception(read_weights(path)).eval()


def _torch_fidelity_network(weights: dict[str, torch.Tensor]) -> FeatureExtractorInceptionV3:
    """torch-fidelity's module with our weights.

    Its constructor unpickles a file, so what has been read safely is handed to it as a file in memory.
    """
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file)  # type: ignore[arg-type]
    except RuntimeError as error:
        first = " ".join(str(error).split()[:40])
        raise AssetError(
            f"these weights are not those of Inception 2015-12-05 ({first} …). "
            "Expected the layout of torch-fidelity's weights-inception-2015-12-05-6726825d.pth."
        ) from None


class _Convolution(nn.Module):
    """A convolution with its batch norm folded into it, and ReLU unless that comes later.

    On a CPU it is oneDNN's own, as torch.compile would call it: ReLU inside, the same to the bit, and the
    weights kept in the order in which oneDNN reads them, which it chooses at the first input.
    """

    def __init__(self, basic: BasicConv2d) -> None:
        super().__init__()
        self.conv = fuse_conv_bn_eval(basic.conv, basic.bn)
        self.relu = True
        self._ordered: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C', H', W')."""
        conv = self.conv
        if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return conv(x).relu_() if self.relu else conv(x)
        how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if self._ordered is None:
            self._ordered = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *how, x.shape)
        activation = "relu" if self.relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x, self._ordered, conv.bias, *how, activation, [], "")


def _fold_batch_norm(module: nn.Module) -> None:
    """Make one layer of every convolution, batch norm and ReLU."""
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, _Convolution(child))
        else:
            _fold_batch_norm(child)


class _Layers(fx.Tracer):
    """What stays one node of the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Ours and torch's; torch-fidelity's blocks are seen into."""
        return isinstance(m, _Convolution) or super().is_leaf_module(m, module_qualified_name)


def _pool_last(layers: nn.Sequential) -> fx.GraphModule:
    """Where a 1×1 convolution follows average pooling, let it go first: it leaves fewer channels to pool.

    Both are linear and the weights of the average sum to 1, so they commute, bias included; ReLU stays last.
    """
    graph = _Layers().trace(layers)
    for pool in graph.find_nodes(op="call_function", target=F.avg_pool2d):
        (convolution,) = pool.users
        layer = layers.get_submodule(convolution.target)
        assert isinstance(layer, _Convolution)
        assert layer.conv.kernel_size == (1, 1)
        layer.relu = False
        convolution.update_arg(0, pool.args[0])
        convolution.append(pool)
        with graph.inserting_after(pool):
            relu = graph.call_function(torch.relu_, (pool,))
        convolution.replace_all_uses_with(relu)
        pool.update_arg(0, convolution)
    return fx.GraphModule(layers, graph)
