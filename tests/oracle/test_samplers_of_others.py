"""Our chains against those of REPA's and JiT's own samplers, with the same noise and the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dit_eval import FlowModel, generate
from tests.golden.smooth_network import LABELS, NULL_CLASS, SEED, SHAPE, prediction
from tests.recorded import recorded_tensor

UP_TO_0_7 = {"cfg": 1.8, "cfg_times": "[0, 0.7]"}
REPA: dict[str, dict[str, Any]] = {
    "sde_10": {"sampler": "sde", "steps": 10},
    "sde_10_guided": {"sampler": "sde", "steps": 10, "cfg": 1.8},
    "sde_250_interval": {"sampler": "sde", "steps": 250, **UP_TO_0_7},
    "euler_10": {"steps": 10, "solver": "euler"},
    "euler_10_interval": {"steps": 10, "solver": "euler", **UP_TO_0_7},
    "euler_250_interval": {"steps": 250, "solver": "euler", "cfg": 1.8, "cfg_times": "[0.2, 0.7]"},
    "heun_20_guided": {"steps": 20, "cfg": 1.8, "solver": "heun", "last_step": "euler"},
}
HEUN = {"solver": "heun", "last_step": "euler"}
BETWEEN = {"cfg": 3.0, "cfg_times": "(0.1, 1)"}
JIT: dict[str, dict[str, Any]] = {
    "heun_10": {"steps": 10, **HEUN},
    "heun_10_guided": {"steps": 10, "cfg": 3.0, **HEUN},
    "heun_10_interval": {"steps": 10, **HEUN, **BETWEEN},
    "heun_50_interval": {"steps": 50, **HEUN, **BETWEEN},
    "heun_50_noise_2": {"steps": 50, "noise_scale": 2.0, **HEUN, **BETWEEN},
    "euler_50_interval": {"steps": 50, "solver": "euler", **BETWEEN},
}


def last_states(folder: Path, settings: dict[str, Any], **model: Any) -> Tensor:
    """The states (N, *SHAPE) that `generate` decodes."""
    states = []

    def decode(x: Tensor) -> Tensor:
        states.append(x)
        return x.clamp(-1, 1)

    (folder / "labels.txt").write_text(" ".join(map(str, LABELS)))
    generate(
        FlowModel(prediction, SHAPE, decode, null_class=NULL_CLASS, **model),
        out=folder / "b.npz",
        num=len(LABELS),
        labels=str(folder / "labels.txt"),
        seed=SEED,
        device="cpu",
        **settings,
    )
    return states[-1]


def deviation(found: Tensor, name: str) -> float:
    """The largest difference from the recorded states, relative to the largest of them."""
    recorded = recorded_tensor("repa_jit_samplers", name)
    assert found.shape == recorded.shape
    return float((found - recorded).abs().max() / recorded.abs().max())


@pytest.mark.parametrize("chain", REPA)
def test_chain_of_repa_is_the_originals(chain: str, tmp_path: Path) -> None:
    states = last_states(tmp_path, REPA[chain] | {"state": "float64"}, noise_at=1)
    assert deviation(states, f"repa_{chain}") <= 1e-6


@pytest.mark.parametrize("chain", JIT)
def test_chain_of_jit_is_the_originals(chain: str, tmp_path: Path) -> None:
    states = last_states(tmp_path, JIT[chain], prediction="x", t_eps=0.05)
    assert deviation(states, f"jit_{chain}") <= 1e-5


@pytest.mark.parametrize(
    ("chain", "change"),
    [
        ("sde_10", {"steps": 11}),
        ("sde_250_interval", {"steps": 249}),
        ("euler_10_interval", {"cfg_times": "[0, 0.7)"}),
        ("heun_20_guided", {"last_step": "none"}),
    ],
)
def test_other_settings_are_another_chain(chain: str, change: dict[str, Any], tmp_path: Path) -> None:
    states = last_states(tmp_path, REPA[chain] | {"state": "float64"} | change, noise_at=1)
    assert deviation(states, f"repa_{chain}") > 1e-3
