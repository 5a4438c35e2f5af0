"""A DiT so small that sampling takes milliseconds: pixels, ten classes, trained for a second."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dit_eval.dit import DiT, DiTConfig, build_dit
from dit_eval.sampling.schedules import diffusion_schedule

CONFIG = DiTConfig(depth=2, hidden_size=64, num_heads=2, patch_size=2)
CLASSES = 10
TINY_VAE = {  # for diffusers' AutoencoderKL: two image pixels per latent pixel, along a side
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def tiny_dit(*, in_channels: int = 3, input_size: int = 8, steps: int = 150) -> DiT:
    """The model, trained on one low-contrast pattern per class, so that samples have grey levels."""
    torch.manual_seed(0)
    model = build_dit(CONFIG, input_size=input_size, in_channels=in_channels, num_classes=CLASSES)
    patterns = 0.5 * torch.randn(CLASSES, in_channels, input_size, input_size)
    alphas = torch.from_numpy(diffusion_schedule(1000).alphas_cumprod).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        y, t = torch.randint(0, CLASSES, (64,)), torch.randint(0, 1000, (64,))
        a, noise = alphas[t][:, None, None, None], torch.randn(64, *patterns.shape[1:])
        epsilon = model(a.sqrt() * patterns[y] + (1 - a).sqrt() * noise, t, y)[:, :in_channels]
        loss = F.mse_loss(epsilon, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def save_tiny(folder: Path, **options: int) -> Path:
    """Its checkpoint in `folder`."""
    path = folder / "tiny.safetensors"
    save_file(tiny_dit(**options).state_dict(), path)
    return path
