"""Train the feature network of protocol digits: `python tools/train_digits_features.py`.

A classifier. One digit in five is held out and never trained on. The others are shifted by up to a pixel and
get noise, so that what the network sees in them is not a memory of these very images.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from digits_data import load_images
from torch import Tensor
from training_run import TrainingRun

from dit_eval.features.digits import DigitsNetwork
from dit_eval.features.resize import no_resize
from dit_eval.runtime.rounding import Quantizer

BATCH = 128
RATE = 1e-3
WEIGHT_DECAY = 1e-2
NOISE = 0.15  # standard deviation, in units of half the range of grey
HELD_OUT = 5  # one digit in so many


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=3000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default="build/digits-features",
    show_default=True,
    help="State and curve; the same command goes on with what is there.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="models/digits/features.safetensors", show_default=True
)
def main(steps: int, seed: int, folder: Path, out: Path) -> None:
    """Train, see how many of the digits held out are recognised, write weights and curve."""
    torch.manual_seed(seed)
    network = DigitsNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    run = TrainingRun(folder, seed, network=network, optimizer=optimizer, decay=decay)
    images, classes, held_out = split(seed)

    for _, generator in run.steps(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        probabilities = network(disturbed(images[chosen], generator)).probabilities
        loss = F.nll_loss(probabilities.clamp(min=1e-12).log(), classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        run.record(loss=loss)

    network.eval()
    with torch.inference_mode():
        recognised = network(held_out[0]).probabilities.argmax(dim=1) == held_out[1]
    run.export(out, network.state_dict(), held_out=len(recognised), recognised=int(recognised.sum()))


def split(seed: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Images (N, 1, 8, 8), as the protocol sees them, and classes to train on; the same of those held out."""
    images, classes = load_images()
    images = no_resize(Quantizer()(images))[:, :1]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    out, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    return images[kept], classes[kept], (images[out], classes[out])


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to a pixel along both sides, paper moving in, with noise on it."""
    n, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(3, (2, n, 1, 1), generator=generator)
    rows = down + torch.arange(height)[:, None]
    columns = right + torch.arange(width)
    shifted = padded[torch.arange(n)[:, None, None], 0, rows, columns].unsqueeze(1)
    return shifted + NOISE * torch.randn(images.shape, generator=generator)


if __name__ == "__main__":
    main()
