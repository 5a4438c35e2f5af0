"""`generate(compile=True)` with the real compiler: TorchInductor, which on a CPU calls the C++ compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dit_eval.generation.pipeline import generate
from tests.tiny import CONFIG, save_tiny


def test_compiled_network_draws_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled afresh. Fused, they may round differently, hence one grey level."""
    import torch._inductor.metrics as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    weights = save_tiny(tmp_path)

    def draw(out: str, *, compile: bool) -> np.ndarray:
        settings = {"num": 6, "steps": 6, "cfg": 1.5, "batch_size": 4, "device": "cpu"}
        path = generate(CONFIG, ckpt=weights, out=tmp_path / out, compile=compile, **settings)
        with np.load(path) as arrays:
            return arrays["arr_0"].astype(int)

    eager = draw("eager.npz", compile=False)
    kernels = inductor.generated_kernel_count
    difference = np.abs(draw("compiled.npz", compile=True) - eager)
    assert inductor.generated_kernel_count > kernels
    assert len(np.unique(eager)) > 50  # grey levels, in which a difference would show
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.99
