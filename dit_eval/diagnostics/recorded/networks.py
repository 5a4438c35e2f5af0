"""The networks with the synthetic weights on which the numbers were recorded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from dit_eval.diagnostics.recorded import dit_weights, inception_weights
from dit_eval.dit import DiT, DiTConfig
from dit_eval.dit.model import sincos_pos_embed


def save_inception(path: Path) -> Path:
    """Write the synthetic Inception weights as `path`, a .safetensors file."""
    save_file({name: torch.from_numpy(value) for name, value in inception_weights.build().items()}, path)
    return path


def synthetic_dit(name: str, device: torch.device | str = "cpu") -> DiT:
    """The DiT "small" or "S8", which is also a SiT, ready for inference. Draws no random numbers."""
    facts = dit_weights.CONFIGS[name]
    config = DiTConfig(
        depth=facts.depth,
        hidden_size=facts.hidden_size,
        num_heads=facts.num_heads,
        patch_size=facts.patch_size,
    )
    sizes = facts.input_size, facts.in_channels, facts.num_classes
    with torch.device("meta"):  # allocates nothing; every parameter is assigned below
        dit = DiT(config, *sizes, block="adaln-zero", learn_sigma=True)
    weights = {name: torch.from_numpy(value).to(device) for name, value in dit_weights.build(facts).items()}
    positions = sincos_pos_embed(facts.hidden_size, facts.input_size // facts.patch_size).to(device)
    dit.load_state_dict(weights | {"pos_embed": positions}, assign=True)
    return dit.eval().requires_grad_(False)
