"""What the feature networks have in common: what they give, and how their weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from dit_eval.errors import AssetError


class Activations(NamedTuple):
    """What one pass gives for N images: pool (N, D), spatial (N, S), probabilities (N, K), float32."""

    pool: torch.Tensor
    spatial: torch.Tensor
    probabilities: torch.Tensor


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .pth or .safetensors file. Raises AssetError if it holds none."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AssetError(f"{path}: no such file; expected the weights of the feature network.") from None
    except Exception as error:  # torch and safetensors document no common base for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AssetError(
            f"{path} cannot be read as weights ({reason}). Expected a .pth that holds tensors only, "
            "or a .safetensors file."
        ) from None
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise AssetError(
            f"{path} is not a state dict of tensors; expected the weights of the feature network."
        )
    return weights
