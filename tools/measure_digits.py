"""Measure the bundled models of the digits and write their cards: `python tools/measure_digits.py`.

Every number of models/NAME/README.md comes from here, by way of models/NAME/metrics.json.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from memorisation import share_of_copies
from safetensors import safe_open
from safetensors.torch import save_file
from train_digits import BATCH, CLASSES, CONFIG, LOSSES

from dit_eval.dit import build_dit
from dit_eval.evaluation.extraction import FeatureExtraction, load_extraction
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.npz import members, write_npz
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments

GUIDANCE = (1.0, 1.25, 1.5)
HALVES = 20  # random cuts of the data
EVALUATIONS = (25, 50, 250)  # of the network, for an image
METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
WAYS: dict[str, tuple[str, dict[str, Any], int]] = {  # model, how it is sampled, and evaluations a step
    "digits, DDPM": ("digits", {"sampler": "ddpm"}, 1),
    "digits, DDIM": ("digits", {"sampler": "ddim"}, 1),
    "digits-sit, SDE": ("digits-sit", {"sampler": "sde"}, 1),
    "digits-sit, ODE": ("digits-sit", {"sampler": "ode"}, 2),
}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default="build/measured", show_default=True)
@click.argument("names", nargs=-1, type=click.Choice(list(LOSSES)))
def main(folder: Path, names: tuple[str, ...]) -> None:
    """Draw as many digits as there are real ones with NAMES (default: all), measure them, write the cards."""
    extraction = load_extraction("digits", device="cpu")
    real = members(assets.fetch(assets.lookup("reference_stats", "digits")))["arr_0"].read()
    for name in names or LOSSES:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        measured = {"num": len(real), "guidance": _guidance(name, own, extraction, real)}
        if name == "digits":
            measured["baselines"] = _baselines(own, extraction, real)
            measured["training"] = {each: _training(name, each) for each in (name, "features")}
        else:
            measured["evaluations"] = _evaluations(own, len(real))
            measured["training"] = {name: _training(name, name)}
        home = assets.folder("models") / name
        (home / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
        (home / "README.md").write_text(model_card(name, measured), "utf-8")
        click.echo(home / "README.md")


def _guidance(name: str, folder: Path, extraction: FeatureExtraction, real: np.ndarray) -> dict[str, Any]:
    """The numbers at each guidance scale, with the model's own sampler and steps."""
    measured = {}
    for cfg in GUIDANCE:
        batch = generate(name, cfg=cfg, num=len(real), out=folder / f"cfg-{cfg:.2f}.npz", device="cpu")
        arrays = members(batch)
        images, labels = arrays["arr_0"].read(), arrays["arr_1"].read()
        seen = extraction.extractor(images).probabilities.argmax(axis=1)
        measured[f"{cfg:.2f}"] = {
            **{metric: round(value, 4) for metric, value in _metrics(batch).items()},
            "as_labelled": round(float((seen == labels).mean()), 4),
            "copies": round(share_of_copies(_pixels(images), _pixels(real)), 4),
        }
        click.echo(f"{name}, cfg {cfg:.2f}: {measured[f'{cfg:.2f}']}")
    return measured


def _baselines(folder: Path, extraction: FeatureExtraction, real: np.ndarray) -> dict[str, float]:
    """FID, by what is compared with the digits."""
    features = extraction.extractor(real).pool
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
        found[name] = _metrics(batch)["fid"]
    return {name: round(value, 4) for name, value in found.items()}


def _evaluations(folder: Path, num: int) -> dict[str, dict[str, float]]:
    """FID without guidance, by way of sampling and evaluations of the network."""
    found: dict[str, dict[str, float]] = {}
    for way, (model, options, each) in WAYS.items():
        found[way] = {}
        for count in EVALUATIONS:
            steps = count // each
            out = folder / f"{'-'.join([model, *options.values()])}-{steps}.npz"
            batch = generate(model, cfg=1.0, steps=steps, num=num, out=out, device="cpu", **options)
            found[way][str(count)] = round(_metrics(batch)["fid"], 4)
        click.echo(f"{way}: {found[way]}")
    return found


def _metrics(batch: Path) -> dict[str, float]:
    result = evaluate(batch, "digits", device="cpu")
    assert result is not None
    return {name: result.metrics[name] for name in METRICS}


def gaussian(features: np.ndarray) -> Gaussian:
    """Mean and covariance of features (N, D)."""
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _training(folder: str, name: str) -> dict[str, float]:
    """What the training of a bundled file took, and the mean of the last tenth of its curve."""
    weights = assets.folder("models") / folder / f"{name}.safetensors"
    with safe_open(weights, "np") as stream:
        facts = {key: int(value) for key, value in stream.metadata().items()}
    with weights.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    last = rows[-max(1, len(rows) // 10) :]
    losses = {
        key: round(sum(float(row[key]) for row in last) / len(last), 5) for key in rows[0] if key != "step"
    }
    return {**facts, **losses}


def model_card(name: str, measured: dict[str, Any]) -> str:
    """The README of a bundled model."""
    strict = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    entry = assets.lookup("models", name)
    template = strict.get_template(f"{name}_card.md.jinja")
    return template.render(measured, config=CONFIG, batch=BATCH, entry=entry, cuts=HALVES)


if __name__ == "__main__":
    main()
