"""The paper's twelve architectures, by name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from dit_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The shape of a DiT's trunk. What it is fed (latents, classes) is said when it is built."""

    depth: int  # number of blocks
    width: int  # size of one token
    heads: int  # attention heads in a block
    patch: int  # latent pixels per token side


DIT = {  # Peebles & Xie 2023, table 1, from the cheapest to the dearest of each size
    "S/8": DiTConfig(depth=12, width=384, heads=6, patch=8),
    "S/4": DiTConfig(depth=12, width=384, heads=6, patch=4),
    "S/2": DiTConfig(depth=12, width=384, heads=6, patch=2),
    "B/8": DiTConfig(depth=12, width=768, heads=12, patch=8),
    "B/4": DiTConfig(depth=12, width=768, heads=12, patch=4),
    "B/2": DiTConfig(depth=12, width=768, heads=12, patch=2),
    "L/8": DiTConfig(depth=24, width=1024, heads=16, patch=8),
    "L/4": DiTConfig(depth=24, width=1024, heads=16, patch=4),
    "L/2": DiTConfig(depth=24, width=1024, heads=16, patch=2),
    "XL/8": DiTConfig(depth=28, width=1152, heads=16, patch=8),
    "XL/4": DiTConfig(depth=28, width=1152, heads=16, patch=4),
    "XL/2": DiTConfig(depth=28, width=1152, heads=16, patch=2),
}


def model_name(name: str) -> str:
    """`XL/2` for `XL/2`, `DiT-XL/2` and `SiT-XL/2`, in any case.

    Raises UsageError with the nearest registered names for any other.
    """
    short = name.strip().upper().removeprefix("DIT-").removeprefix("SIT-")
    if short in DIT:
        return short
    near = get_close_matches(short, DIT, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the models are {', '.join(DIT)}."
    raise UsageError(f"there is no model {name!r}; {hint}")
