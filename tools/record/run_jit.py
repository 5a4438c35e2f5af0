"""Run JiT's denoiser.py with a network in closed form: `run_jit OUT.npz`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from dit_eval.sampling.noise import ImageNoise
from tests.golden.smooth_network import LABELS, NULL_CLASS, SEED, SHAPE, prediction
from tools.record import quantities

INTERVAL = {"cfg": 3.0, "interval_min": 0.1, "interval_max": 1.0}
CHAINS: dict[str, dict[str, Any]] = {  # with times that lie on the ends of the interval
    "heun_10": {"sampling_method": "heun", "num_sampling_steps": 10},
    "heun_10_guided": {"sampling_method": "heun", "num_sampling_steps": 10, "cfg": 3.0},
    "heun_10_interval": {"sampling_method": "heun", "num_sampling_steps": 10, **INTERVAL},
    "heun_50_interval": {"sampling_method": "heun", "num_sampling_steps": 50, **INTERVAL},
    "heun_50_noise_2": {"sampling_method": "heun", "num_sampling_steps": 50, "noise_scale": 2.0, **INTERVAL},
    "euler_50_interval": {"sampling_method": "euler", "num_sampling_steps": 50, **INTERVAL},
}
SETTINGS = {  # those of main_jit.py, and no guidance
    "model": "smooth", "img_size": SHAPE[1], "class_num": NULL_CLASS, "attn_dropout": 0.0,
    "proj_dropout": 0.0, "label_drop_prob": 0.1, "P_mean": -0.8, "P_std": 0.8, "t_eps": 0.05,
    "noise_scale": 1.0, "ema_decay1": 0.9999, "ema_decay2": 0.9996, "cfg": 1.0, "interval_min": 0.0,
    "interval_max": 1.0,
}  # fmt: skip


class Network(nn.Module):
    """Predicts data."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.forward = prediction


def our_noise(*shape: int, device: torch.device) -> Tensor:
    """In place of torch.randn: the noise of our images."""
    return ImageNoise(SEED, torch.arange(shape[0])).latents(shape)


def main(out: Path) -> None:
    """Write the arrays of repa_jit_samplers.npz that are JiT's to `out`."""
    torch.set_num_threads(1)
    networks = ModuleType("model_jit")  # in place of JiT's, which denoiser.py imports
    networks.JiT_models = {SETTINGS["model"]: Network}  # type: ignore[attr-defined]
    sys.modules["model_jit"] = networks
    denoiser = importlib.import_module("denoiser")
    arrays = {}
    for name, settings in CHAINS.items():
        model = denoiser.Denoiser(SimpleNamespace(**SETTINGS | settings)).eval()
        with patch.object(torch, "randn", our_noise):
            arrays[f"jit_{name}"] = model.generate(torch.tensor(LABELS))
    quantities.save(out, repa_jit_samplers=arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
