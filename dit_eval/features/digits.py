"""The feature network of the bundled digits: a small classifier with the same three outputs as Inception."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor, nn

from dit_eval.errors import AssetError, BatchError
from dit_eval.features.network import Activations, read_weights

_SIZE = 8  # pixels along a side of an image
_CHANNELS = 64  # channels of the last convolutions, and so the dimension of pool features
_SPATIAL_CHANNELS = 8


class DigitsNetwork(nn.Module):
    """Scaled images (N, 3, 8, 8) → pool (N, 64), spatial (N, 128), probabilities (N, 10).

    The three channels are averaged first. spatial: the first 8 channels of the third convolution at 4×4
    positions, flattened in the order height, width, channel. probabilities: softmax of a last layer without
    bias.
    """

    dimensions = (_CHANNELS, (_SIZE // 2) ** 2 * _SPATIAL_CHANNELS, 10)  # pool, spatial, classes

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Sequential(
            *(nn.Conv2d(1, _CHANNELS // 2, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(_CHANNELS // 2, _CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU()),
        )
        self.upper = nn.Sequential(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(_CHANNELS, 10, bias=False)

    def forward(self, x: Tensor) -> Activations:
        """One pass over a batch. Raises BatchError for images of another size than 8×8."""
        if x.shape[2:] != (_SIZE, _SIZE):
            raise BatchError(
                f"protocol digits evaluates images of {_SIZE}×{_SIZE} pixels; these have "
                f"{x.shape[2]}×{x.shape[3]}. Choose --protocol adm and a reference of such images."
            )
        hidden = self.lower(x.mean(dim=1, keepdim=True))  # (N, 64, 4, 4)
        pool = self.upper(hidden).mean(dim=(2, 3))
        spatial = hidden[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return Activations(pool, spatial, torch.softmax(self.classifier(pool), dim=1))


def load_digits_network(path: Path) -> DigitsNetwork:
    """The network with the weights of a .pth or .safetensors file. Raises AssetError if they do not match."""
    network = DigitsNetwork()
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[-1], 100, placeholder=" …")
        raise AssetError(
            f"{path} does not contain the weights of the digits' feature network ({reason}); "
            "omit --inception to use the bundled ones."
        ) from None
    return network.eval()
