"""The claims of the bundled models' cards, kept on subsets that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dit_eval.dit import DiTConfig, build_dit
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.npz import members, write_npz
from dit_eval.results.result import Result
from tools.memorisation import share_of_copies

NUM, SEED = 256, 7


def real() -> np.ndarray:
    return members(assets.folder("reference_stats") / "digits.npz")["arr_0"].read()


def measured(batch: Path) -> Result:
    result = evaluate(batch, "digits", device="cpu")
    assert result is not None
    return result


@pytest.fixture(scope="module", params=["digits", "digits-sit"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """A batch for each guidance scale; the smallest and the paper's largest."""
    folder = tmp_path_factory.mktemp(request.param)
    options = {"num": NUM, "seed": SEED, "batch_size": NUM, "device": "cpu"}
    return {cfg: generate(request.param, cfg=cfg, out=folder / f"{cfg}.npz", **options) for cfg in (1.0, 1.5)}


def test_guided_digits_are_classified_as_their_labels(drawn: dict[float, Path]) -> None:
    arrays = members(drawn[1.5])
    classes = (
        load_extraction("digits", device="cpu").extractor(arrays["arr_0"].read()).probabilities.argmax(1)
    )
    assert (classes == arrays["arr_1"].read()).mean() >= 0.97


def test_fid_is_near_that_of_as_many_real_digits(drawn: dict[float, Path], tmp_path: Path) -> None:
    data, random = real(), np.random.default_rng(SEED)
    write_npz(tmp_path / "real.npz", {"arr_0": data[random.permutation(len(data))[:NUM]]})
    fid, real_fid = (measured(batch).metrics["fid"] for batch in (drawn[1.0], tmp_path / "real.npz"))
    assert fid < 3 * real_fid


def test_fid_is_far_below_noise_and_an_untrained_model(drawn: dict[float, Path], tmp_path: Path) -> None:
    fid = measured(drawn[1.0]).metrics["fid"]
    noise = np.random.default_rng(SEED).integers(0, 256, (NUM, 8, 8, 3), dtype=np.uint8)
    write_npz(tmp_path / "noise.npz", {"arr_0": noise})
    assert fid < measured(tmp_path / "noise.npz").metrics["fid"] / 20
    torch.manual_seed(SEED)
    config = DiTConfig(**assets.lookup("models", "digits").config)
    untrained = build_dit(config, input_size=8, in_channels=1, num_classes=10)
    save_file(untrained.state_dict(), tmp_path / "untrained.safetensors")
    options = {"ckpt": tmp_path / "untrained.safetensors", "steps": 10, "batch_size": NUM, "device": "cpu"}
    batch = generate(config, num=NUM, out=tmp_path / "untrained.npz", **options)
    assert fid < measured(batch).metrics["fid"]


def test_guidance_trades_recall_for_precision(drawn: dict[float, Path]) -> None:
    plain, guided = (measured(drawn[cfg]).metrics for cfg in (1.0, 1.5))
    assert guided["precision"] > plain["precision"]
    assert guided["recall"] < plain["recall"]


def test_few_samples_are_copies_of_training_images(drawn: dict[float, Path]) -> None:
    data = real()
    for batch in drawn.values():
        images = members(batch)["arr_0"].read()
        share = share_of_copies(*(x.reshape(len(x), -1).astype(float) for x in (images, data)))
        assert share < 0.2


def test_the_two_models_are_one_network_of_one_cost(tmp_path: Path) -> None:
    records = []
    for name in ("digits", "digits-sit"):
        batch = generate(name, num=2, steps=2, out=tmp_path / f"{name}.npz", device="cpu")
        records.append(json.loads(batch.with_suffix(".json").read_text("utf-8")))
    assert records[0]["macs"] == records[1]["macs"]
