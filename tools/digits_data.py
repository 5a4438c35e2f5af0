"""The 1,797 handwritten digits as a batch of images: `python tools/digits_data.py digits.npz`.

UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), its test set,
as scikit-learn carries it: 8×8 pixels, each a count 0 … 16 of inked dots in a cell of 4×4.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from dit_eval.io.npz import write_npz
from dit_eval.runtime.rounding import Quantizer

LEVELS = 17  # of grey


def load_images() -> tuple[Tensor, Tensor]:
    """Every digit in −1 (paper) … 1 (ink), (1797, 1, 8, 8) float32, and its class, (1797,) int64."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)
    return images / ((LEVELS - 1) / 2) - 1, torch.from_numpy(classes.astype(np.int64))


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Write OUT.npz: the images as arr_0, rounded as samples are, and their classes as arr_1."""
    images, classes = load_images()
    write_npz(out, {"arr_0": Quantizer()(images).numpy(), "arr_1": classes.numpy()})
    click.echo(out)


if __name__ == "__main__":
    main()
