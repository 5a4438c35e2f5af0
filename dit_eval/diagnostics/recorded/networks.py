"""The networks with the synthetic weights on which the numbers were recorded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dit_eval.diagnostics.recorded import dit_weights, inception_weights
from dit_eval.diagnostics.recorded.numbers import arrays
from dit_eval.dit import DiT, DiTConfig
from dit_eval.dit.model import TimestepEmbedder, sincos_pos_embed, sinusoids


def save_inception(path: Path) -> Path:
    """Write the synthetic Inception weights as `path`, a .safetensors file."""
    save_file({name: torch.from_numpy(value) for name, value in inception_weights.build().items()}, path)
    return path


def synthetic_dit(name: str, device: torch.device | str = "cpu") -> DiT:
    """The DiT "small" or "S8", which is also a SiT, ready for inference. Draws no random numbers.

    Its timesteps are embedded at `recorded_frequencies`.
    """
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
        dit.t_embedder = _RecordedTimestepEmbedder(facts.hidden_size)
    weights = {name: torch.from_numpy(value).to(device) for name, value in dit_weights.build(facts).items()}
    positions = sincos_pos_embed(facts.hidden_size, facts.input_size // facts.patch_size).to(device)
    dit.load_state_dict(weights | {"pos_embed": positions}, assign=True)
    return dit.eval().requires_grad_(False)


class _RecordedTimestepEmbedder(TimestepEmbedder):
    def frequencies(self, device: torch.device) -> Tensor:
        return recorded_frequencies().to(device)


def recorded_frequencies() -> Tensor:
    """The frequencies of the sinusoids as the machine that recorded them rounded them, (128,) float32.

    The original computes them in float32, in which processors differ by one unit in the last place. They are
    those near ours whose sinusoids of the times 0, 1, 500 and 999 are nearest to the recorded ones.
    """
    recorded = torch.from_numpy(arrays("dit")["small_t_frequencies"])
    times = torch.tensor([0.0, 1.0, 500.0, 999.0], device="cpu")
    frequencies = TimestepEmbedder(1).frequencies(torch.device("cpu"))
    below, above = (torch.nextafter(frequencies, torch.tensor(end)) for end in (0.0, 2.0))
    candidates = torch.stack([frequencies, below, above])
    errors = torch.stack(
        [(sinusoids(times, row) - recorded).abs().unflatten(1, (2, -1)) for row in candidates]
    )
    return candidates.gather(0, errors.amax(dim=(1, 2)).argmin(dim=0)[None])[0]
