"""A picture of the first images of a batch with their classes."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from dit_eval.errors import BatchError
from dit_eval.io.files import atomic_file, make_folder
from dit_eval.io.npz import members

_CAPTION = 14  # pixels


def draw_grid(batch: Path, picture: Path, *, limit: int = 64) -> None:
    """Draw the first `limit` images of an npz as a PNG, up to eight per row, small images enlarged.

    Raises BatchError if the picture cannot be written.
    """
    arrays = members(batch)
    images = next(arrays["arr_0"].blocks(limit))
    labels = next(arrays["arr_1"].blocks(limit)) if "arr_1" in arrays else [""] * len(images)
    columns = min(8, math.ceil(math.sqrt(len(images))))
    zoom = max(1, 64 // images.shape[1])
    height, width = zoom * images.shape[1] + _CAPTION, zoom * images.shape[2]
    grid = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    draw = ImageDraw.Draw(grid)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        size = (width, height - _CAPTION)
        tile = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
        draw.text((column * width + 2, row * height + 1), str(label), fill="black")
        grid.paste(tile, (column * width, row * height + _CAPTION))
    make_folder(picture.parent, BatchError)
    with atomic_file(picture, BatchError) as file:
        grid.save(file, format="PNG")
