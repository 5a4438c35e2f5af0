"""The network of a sampler: a DiT in a precision, optionally compiled, that counts the images it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_eval.dit import Conditioning, DiT


class CountedNetwork:
    """A DiT, and the number of images passed through it; see `guidance.Network`.

    passes: includes the unconditional passes of guidance.
    """

    def __init__(self, dit: DiT) -> None:
        self.passes = 0
        self.device = dit.pos_embed.device
        self._dit = dit

    def condition(self, t: Tensor, y: Tensor) -> Conditioning:
        """Times (1,) or (M,) and classes (M,) → M rows of conditioning."""
        return self._dit.condition(t, y)

    def denoise(self, x: Tensor, condition: Conditioning) -> Tensor:
        """x (N, C, H, W) and N rows of conditioning → (N, C or 2C, H, W)."""
        self.passes += len(x)
        return self._dit.denoise(x, condition)


def sampling_network(dit: DiT, *, precision: str, compiled: bool) -> CountedNetwork:
    """The network of `dit`, which is converted in place.

    precision: "bf16" computes attention and MLPs in bfloat16; "fp32" and "tf32" differ only in the setting of
    `runtime.precision.computation`. compiled: compile the blocks.
    """
    if precision == "bf16":
        dit.cast_blocks(torch.bfloat16)
    if compiled:
        dit.compile_blocks()
    return CountedNetwork(dit)
