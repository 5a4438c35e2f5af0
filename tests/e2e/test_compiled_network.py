"""`generate(compile=True)` with the real compiler: TorchInductor, which on a CPU calls the C++ compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dit_eval.dit import build_dit
from dit_eval.generation.pipeline import generate
from tests.tiny import CLASSES, CONFIG, save_tiny

DEEP = replace(CONFIG, depth=4)


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is compiled anew."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    torch.compiler.reset()


def draw(out: Path, config: Any, weights: Path, **options: Any) -> np.ndarray:
    settings = {"num": 6, "steps": 6, "cfg": 1.5, "batch_size": 4, "device": "cpu"}
    path = generate(config, ckpt=weights, out=out, **(settings | options))
    with np.load(path) as arrays:
        return arrays["arr_0"].astype(int)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_network_draws_the_same_images(tmp_path: Path) -> None:
    """Fused kernels may round at other places, hence one grey level."""
    import torch._inductor.metrics as inductor

    weights = save_tiny(tmp_path)
    eager = draw(tmp_path / "eager.npz", CONFIG, weights)
    kernels = inductor.generated_kernel_count
    difference = np.abs(draw(tmp_path / "compiled.npz", CONFIG, weights, compile=True) - eager)
    assert inductor.generated_kernel_count > kernels
    assert len(np.unique(eager)) > 50  # grey levels, in which a difference would show
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.99


@pytest.mark.usefixtures("fresh_compiler")
def test_all_blocks_share_one_compilation(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    dit = build_dit(DEEP, input_size=8, in_channels=3, num_classes=CLASSES)
    save_file(dit.state_dict(), tmp_path / "deep.safetensors")
    counters.clear()
    draw(tmp_path / "compiled.npz", DEEP, tmp_path / "deep.safetensors", compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
