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
@pytest.mark.parametrize(("precision", "exact"), [("fp32", 0.99), ("bf16", 0.9)])
def test_compiled_network_draws_the_same_images(tmp_path: Path, precision: str, exact: float) -> None:
    """Fused kernels round at other places: at most one grey level in fp32, two in bf16."""
    import torch._inductor.metrics as inductor

    weights = save_tiny(tmp_path)
    eager = draw(tmp_path / "eager.npz", CONFIG, weights, precision=precision)
    kernels = inductor.generated_kernel_count
    compiled = draw(tmp_path / "compiled.npz", CONFIG, weights, precision=precision, compile=True)
    assert inductor.generated_kernel_count > kernels
    assert len(np.unique(eager)) > 50  # grey levels, in which a difference would show
    difference = np.abs(compiled - eager)
    assert difference.max() <= (1 if precision == "fp32" else 2)
    assert (difference == 0).mean() >= exact


@pytest.mark.usefixtures("fresh_compiler")
def test_all_blocks_share_one_compilation(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    dit = build_dit(DEEP, input_size=8, in_channels=3, num_classes=CLASSES)
    save_file(dit.state_dict(), tmp_path / "deep.safetensors")
    counters.clear()
    draw(tmp_path / "compiled.npz", DEEP, tmp_path / "deep.safetensors", compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
