"""Image encoders as feature networks: modules of timm that give pool features alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_eval.errors import AssetError
from dit_eval.features.network import Activations, read_weights
from dit_eval.features.protocols import EncoderProtocol

NORMALISATIONS = {  # mean and standard deviation of red, green and blue, of values in 0…1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# What is taken of the network's last layer, after the final norm: tokens (N, T, D), or a map (N, D, H, W).
FEATURES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "cls": lambda _, tokens: tokens[:, 0],
    "attention-pool": lambda network, tokens: network.attn_pool(tokens),
    "spatial-mean": lambda _, maps: maps.mean(dim=(2, 3)),
}

# Networks of torch.hub's facebookresearch/dinov2, and the same in timm. They differ in how position
# embeddings are resized: here as torch.hub does it, for images of 224 pixels.
HUB = {"dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m"}
_HUB_SIZE = 224

_NOT_USED = ("mask_token", "head.")  # tensors of the published files: of pretraining and of classification


class Encoder(nn.Module):
    """Resized images (N, 3, S, S), 0 to 1 → pool (N, D), spatial (N, 0), probabilities (N, 0).

    Where S is no multiple of the patches of a vision transformer, rows and columns of zeros follow the
    normalised image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, normalisation: str, feature: str, precision: str):
        super().__init__()
        self.network = network
        self.dimensions = (network.num_features, 0, 0)  # pool, spatial, classes
        for name, values in zip(("mean", "std"), NORMALISATIONS[normalisation], strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        self._feature = FEATURES[feature]
        self._bf16 = precision == "bf16"

    def forward(self, x: Tensor) -> Activations:
        """One pass over a resized batch; of `precision` "bf16" under autocast."""
        x = (x - self.mean) / self.std
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bf16):
            pool = self._feature(self.network, self.network.forward_features(x))
        nothing = pool.new_zeros(len(pool), 0)
        return Activations(pool, nothing, nothing)


def load_encoder(protocol: EncoderProtocol, path: Path) -> Encoder:
    """The network with the weights of a .pth or .safetensors file. Raises AssetError if they do not match."""
    import timm  # slow to load

    weights = {name: weight.float() for name, weight in read_weights(path).items()}
    options: dict[str, Any] = {}
    if protocol.network in HUB:
        options = {"img_size": _HUB_SIZE}
    elif protocol.feature != "spatial-mean":  # a vision transformer
        options = {"dynamic_img_size": True, "dynamic_img_pad": True}
    with torch.device("meta"):  # allocates nothing; every parameter is assigned below
        network: Any = timm.create_model(
            HUB.get(protocol.network, protocol.network), num_classes=0, **options
        )
    try:
        if protocol.network in HUB and "pos_embed" in weights:
            grid = network.patch_embed.grid_size[0]
            weights["pos_embed"] = resized_positions(weights["pos_embed"], grid)
        missing, others = network.load_state_dict(weights, strict=False, assign=True)
        unknown = [name for name in others if not name.startswith(_NOT_USED)]
        problem = f"missing: {', '.join(missing[:3])}" if missing else f"unknown: {', '.join(unknown[:3])}"
    except RuntimeError as error:  # tensors of other shapes
        missing, unknown, problem = [], [path.name], str(error).splitlines()[-1].strip()
    if missing or unknown:
        raise AssetError(
            f"{path} does not contain the weights of {protocol.network} ({problem}); "
            "omit --inception to use the registered ones."
        )
    network = network.eval().requires_grad_(False)
    return Encoder(network, protocol.normalisation, protocol.feature, protocol.precision).eval()


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings (1, 1 + M², D) of a CLS token and M×M patches, for grid×grid patches.

    Bicubic without antialiasing; source positions follow from the scale (grid + 0.1) / M, where timm's follow
    from the sizes, and its filter is antialiased.
    Source: DINOv2 (Oquab et al. 2023), as torch.hub loads it.
    """
    cls, patches = positions[:, :1], positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return positions
    planes = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    resized = F.interpolate(planes, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat((cls, resized.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
