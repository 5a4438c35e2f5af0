"""Measure the bundled digits and write their model card: `python tools/measure_digits.py`.

Every number of models/digits/README.md comes from here, by way of models/digits/metrics.json.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from safetensors import safe_open
from safetensors.torch import save_file
from train_digits import CLASSES, CONFIG

from dit_eval import assets
from dit_eval.dit import build_dit
from dit_eval.evaluate import evaluate
from dit_eval.generate import generate
from dit_eval.measure import Measurer, load_measurer
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.memorisation import share_of_copies
from dit_eval.npz import members, write_npz

GUIDANCE = (1.0, 1.25, 1.5)
HALVES = 20  # random cuts of the data
METRICS = ("fid", "sfid", "inception_score", "precision", "recall")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default="build/digits-measured", show_default=True)
def main(folder: Path) -> None:
    """Draw as many digits as there are real ones at each guidance scale, measure them, write the card."""
    folder.mkdir(parents=True, exist_ok=True)
    measurer = load_measurer("digits", device="cpu")
    real = members(assets.fetch(assets.lookup("reference_stats", "digits")))["arr_0"].read()
    measured: dict[str, Any] = {"num": len(real), "guidance": {}}
    for cfg in GUIDANCE:
        batch = generate("digits", cfg=cfg, num=len(real), out=folder / f"cfg-{cfg:.2f}.npz", device="cpu")
        measured["guidance"][f"{cfg:.2f}"] = _measure(batch, measurer, real)
        click.echo(f"cfg {cfg:.2f}: {measured['guidance'][f'{cfg:.2f}']}")
    measured["baselines"] = _baselines(folder, measurer, real)
    measured["training"] = {name: _training(name) for name in ("digits", "features")}
    home = assets.folder("models") / "digits"
    (home / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    (home / "README.md").write_text(model_card(measured), "utf-8")
    click.echo(home / "README.md")


def _measure(batch: Path, measurer: Measurer, real: np.ndarray) -> dict[str, float]:
    result = evaluate(batch, "digits", device="cpu")
    assert result is not None
    arrays = members(batch)
    images, labels = arrays["arr_0"].read(), arrays["arr_1"].read()
    seen = measurer.extractor(images).probabilities.argmax(axis=1)
    return {
        **{name: round(result.metrics[name], 4) for name in METRICS},
        "as_labelled": round(float((seen == labels).mean()), 4),
        "copies": round(share_of_copies(_pixels(images), _pixels(real)), 4),
    }


def _baselines(folder: Path, measurer: Measurer, real: np.ndarray) -> dict[str, float]:
    """FID, by what is compared with the digits."""
    features = measurer.extractor(real).pool
    halves = []
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(real))
        one, two = np.array_split(features[order], 2)
        halves.append(frechet_distance(gaussian(one), gaussian(two)))
    noise = np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)
    write_npz(folder / "noise.npz", {"arr_0": noise})
    torch.manual_seed(0)
    untrained = build_dit(CONFIG, input_size=8, in_channels=1, num_classes=CLASSES)
    save_file(untrained.state_dict(), folder / "untrained.safetensors")
    drawn = generate(
        CONFIG,
        ckpt=folder / "untrained.safetensors",
        steps=10,
        num=len(real),
        out=folder / "untrained.npz",
        device="cpu",
    )
    found = {"halves": float(np.mean(halves)), "halves_largest": max(halves)}
    for name, batch in (("noise", folder / "noise.npz"), ("untrained", drawn)):
        result = evaluate(batch, "digits", device="cpu")
        assert result is not None
        found[name] = result.metrics["fid"]
    return {name: round(value, 4) for name, value in found.items()}


def gaussian(features: np.ndarray) -> Gaussian:
    """Mean and covariance of features (N, D)."""
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _training(name: str) -> dict[str, float]:
    """What the training of a bundled file took, and the mean of the last tenth of its curve."""
    weights = assets.folder("models") / "digits" / f"{name}.safetensors"
    with safe_open(weights, "np") as stream:
        facts = {key: int(value) for key, value in stream.metadata().items()}
    with weights.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    last = rows[-max(1, len(rows) // 10) :]
    losses = {
        key: round(sum(float(row[key]) for row in last) / len(last), 5) for key in rows[0] if key != "step"
    }
    return {**facts, **losses}


def model_card(measured: dict[str, Any]) -> str:
    """The README of models/digits."""
    template = Path(__file__).with_name("digits_card.md.jinja").read_text("utf-8")
    entry = assets.lookup("models", "digits").about
    strict = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    return strict.from_string(template).render(measured, config=CONFIG, steps=entry["steps"], cuts=HALVES)


if __name__ == "__main__":
    main()
