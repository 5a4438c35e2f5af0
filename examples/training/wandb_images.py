"""Evaluate arrays of images and log the numbers to Weights & Biases.

    WANDB_MODE=offline python wandb_images.py

Replace `batches` by the sampler of your training code.
"""

from __future__ import annotations

import click
import numpy as np
import wandb

import dit_eval


def batches(step: int) -> list[np.ndarray]:
    """Two batches of random images in -1 … 1, N×3×H×W, in place of samples of a model."""
    generator = np.random.default_rng(step)
    return [generator.uniform(-1, 1, (100, 3, 8, 8)).astype(np.float32) for _ in range(2)]


@click.command()
@click.option("--project", default="dit-eval-example", show_default=True)
def main(project: str) -> None:
    """Log three evaluations."""
    with wandb.init(project=project) as run, dit_eval.Evaluator("digits") as evaluator:
        for step in (100, 200, 300):
            evaluator.reset()
            for images in batches(step):
                evaluator.update(images, value_range=(-1, 1))
            run.log(evaluator.compute().scalars("eval/"), step=step)


if __name__ == "__main__":
    main()
