"""The feature network of the bundled digits: a small classifier with the three outputs of the Inception."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dit_eval.errors import AssetError, BatchError
from dit_eval.features.network import Activations, read_weights

SIDE = 8  # pixels of an image
_WIDTH = 64  # channels, and the length of a pool feature
_SPATIAL_CHANNELS = 8


class DigitsNetwork(nn.Module):
    """Scaled images (N, 3, 8, 8) → pool (N, 64), spatial (N, 128), probabilities (N, 10).

    Grey is the mean of the three channels. spatial: the third layer's first 8 channels of 4×4, flattened in
    the order height, width, channel. probabilities: softmax of a last layer that has no bias.
    """

    dimensions = (_WIDTH, (SIDE // 2) ** 2 * _SPATIAL_CHANNELS, 10)  # pool, spatial, classes

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Sequential(
            *(nn.Conv2d(1, _WIDTH // 2, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(_WIDTH // 2, _WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()),
        )
        self.upper = nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(_WIDTH, 10, bias=False)

    def forward(self, x: Tensor) -> Activations:
        """One pass. Raises BatchError for images of another size."""
        if x.shape[2:] != (SIDE, SIDE):
            raise BatchError(
                f"protocol digits measures images of {SIDE}×{SIDE} pixels, and these have "
                f"{x.shape[2]}×{x.shape[3]}. Choose --protocol adm and a reference of such images."
            )
        middle = self.lower(x.mean(dim=1, keepdim=True))  # (N, 64, 4, 4)
        pool = self.upper(middle).mean(dim=(2, 3))
        spatial = middle[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return Activations(pool, spatial, torch.softmax(self.classifier(pool), dim=1))


def load_digits_network(path: Path) -> DigitsNetwork:
    """The network with the weights of a .pth or .safetensors file. Raises AssetError if they do not fit."""
    network = DigitsNetwork()
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise AssetError(
            f"{path} does not hold the digits' feature network ({reason}). "
            "Leave --inception out to use the bundled one."
        ) from None
    return network.eval()
