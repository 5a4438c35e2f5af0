"""The twelve architectures of the DiT paper, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dit_eval.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The architecture of a DiT, without the sizes of latents and classes, which `build_dit` takes."""

    depth: int  # number of blocks
    hidden_size: int  # size of one token
    num_heads: int  # attention heads per block
    patch_size: int  # latent pixels per token side


DIT = {  # Peebles & Xie 2023, table 1; patch sizes in the order of rising cost
    "S/8": DiTConfig(depth=12, hidden_size=384, num_heads=6, patch_size=8),
    "S/4": DiTConfig(depth=12, hidden_size=384, num_heads=6, patch_size=4),
    "S/2": DiTConfig(depth=12, hidden_size=384, num_heads=6, patch_size=2),
    "B/8": DiTConfig(depth=12, hidden_size=768, num_heads=12, patch_size=8),
    "B/4": DiTConfig(depth=12, hidden_size=768, num_heads=12, patch_size=4),
    "B/2": DiTConfig(depth=12, hidden_size=768, num_heads=12, patch_size=2),
    "L/8": DiTConfig(depth=24, hidden_size=1024, num_heads=16, patch_size=8),
    "L/4": DiTConfig(depth=24, hidden_size=1024, num_heads=16, patch_size=4),
    "L/2": DiTConfig(depth=24, hidden_size=1024, num_heads=16, patch_size=2),
    "XL/8": DiTConfig(depth=28, hidden_size=1152, num_heads=16, patch_size=8),
    "XL/4": DiTConfig(depth=28, hidden_size=1152, num_heads=16, patch_size=4),
    "XL/2": DiTConfig(depth=28, hidden_size=1152, num_heads=16, patch_size=2),
}


def model_name(name: str) -> str:
    """`XL/2` for `XL/2`, `DiT-XL/2`, `SiT-XL/2` and `REPA-XL/2`, in any case.

    Raises UsageError, with the nearest names, for any other name.
    """
    short = re.sub("^(DIT|SIT|REPA)-", "", name.strip().upper())
    if short in DIT:
        return short
    raise UsageError(f"unknown model {name!r} (known: {', '.join(DIT)}).{did_you_mean(short, DIT)}")
