"""The Inception network of FID, of 2015-12-05: torch-fidelity's layers, rearranged for speed."""

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
from dit_eval.runtime.onednn import Convolution, linear

_SPATIAL_LAYER = "Mixed_6d.branch1x1"  # `mixed_6/conv` of the TensorFlow graph
_SPATIAL_CHANNELS = 7


class Inception(nn.Module):
    """Resized images (N, 3, 299, 299) → pool (N, 2048), spatial (N, 2023), probabilities (N, 1008).

    spatial: Mixed_6d.branch1x1 after batch norm and ReLU, the first 7 channels of 17×17 positions, flattened
    in the order height, width, channel. probabilities: softmax of the last layer without its bias.
    Source: the graph that ADM's evaluator runs; Szegedy et al. 2015.
    """

    dimensions = (2048, 17 * 17 * _SPATIAL_CHANNELS, 1008)  # pool, spatial, classes

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        network = _torch_fidelity_network(weights)
        self.classifier = nn.Parameter(network.fc.weight.detach(), requires_grad=False)
        _fold_batch_norm(network)
        layers = OrderedDict(network.named_children())
        del layers["fc"]
        self.layers = _rearranged(nn.Sequential(layers))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> Activations:
        """One pass over a resized batch."""
        pool, spatial = self.layers(x)
        pool = pool.flatten(1)
        spatial = spatial[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        rows = pool.expand(max(len(pool), 2), -1)  # the product of a single row would be summed differently
        logits = linear(rows, self.classifier)[: len(pool)]
        return Activations(pool, spatial, torch.softmax(logits, dim=1))


def load_inception(path: Path) -> Inception:
    """The network with the weights of a .pth or .safetensors file.

    Raises AssetError if the file cannot be read or holds other weights than those of Inception 2015-12-05.
    """
    return Inception(read_weights(path)).eval()


def _torch_fidelity_network(weights: dict[str, torch.Tensor]) -> FeatureExtractorInceptionV3:
    """torch-fidelity's module with the given weights.

    Its constructor unpickles a file; weights that were read safely are passed to it as a file in memory.
    """
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file)  # type: ignore[arg-type]
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise AssetError(
            f"these weights are not those of Inception 2015-12-05 ({reason} …). "
            "Expected the layout of torch-fidelity's weights-inception-2015-12-05-6726825d.pth."
        ) from None


def _fold_batch_norm(module: nn.Module) -> None:
    """Replace every block of convolution, batch norm and ReLU by one layer."""
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, Convolution(fuse_conv_bn_eval(child.conv, child.bn)))
        else:
            _fold_batch_norm(child)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Trace into torch-fidelity's blocks, but not into convolutions or torch's own modules."""
        return isinstance(m, Convolution) or super().is_leaf_module(m, module_qualified_name)


def _rearranged(layers: nn.Sequential) -> fx.GraphModule:
    """The same layers with average pooling after 1×1 convolutions; returns pool features and spatial layer.

    Pooling after the convolution has fewer channels to average. Both are linear and the weights of the
    average sum to 1, so they commute, bias included; ReLU stays last.
    """
    graph = _Tracer().trace(layers)
    for pool in graph.find_nodes(op="call_function", target=F.avg_pool2d):
        (convolution,) = pool.users
        layer = layers.get_submodule(convolution.target)
        assert isinstance(layer, Convolution)
        assert layer.conv.kernel_size == (1, 1)
        layer.relu = False
        convolution.update_arg(0, pool.args[0])
        convolution.append(pool)
        with graph.inserting_after(pool):
            relu = graph.call_function(torch.relu_, (pool,))
        convolution.replace_all_uses_with(relu)
        pool.update_arg(0, convolution)
    (spatial,) = graph.find_nodes(op="call_module", target=_SPATIAL_LAYER)
    (output,) = graph.find_nodes(op="output")
    output.update_arg(0, (output.args[0], spatial))
    return fx.GraphModule(layers, graph)
