"""What the feature networks have in common: their outputs, and how their weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from dit_eval.errors import AssetError
from dit_eval.io.files import KIND_NAMES, KIND_REMEDIES, file_kind


class Activations(NamedTuple):
    """Features of N images, float32 tensors: pool (N, D), spatial (N, S), probabilities (N, K)."""

    pool: torch.Tensor
    spatial: torch.Tensor
    probabilities: torch.Tensor


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .pth or .safetensors file. Raises AssetError if there is none."""
    kind = file_kind(path)
    if kind == "missing":
        raise AssetError(f"{path}: no such file; expected the weights of the feature network.")
    if kind not in ("torch", "safetensors", "pickle"):
        raise AssetError(
            f"{path} cannot be read as weights: it is {KIND_NAMES[kind]}. "
            + KIND_REMEDIES.get(kind, "Expected the feature network as a .pth or .safetensors file.")
        )
    try:
        if kind == "safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors document no exception for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AssetError(
            f"{path} cannot be read as weights ({reason}). Expected a .pth file that holds only "
            "tensors, or a .safetensors file."
        ) from None
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise AssetError(
            f"{path} is not a state dict of tensors; expected the weights of the feature network."
        )
    return weights
