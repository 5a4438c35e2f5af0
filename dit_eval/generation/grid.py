"""A picture of the first images of a batch, each with its class."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from dit_eval.errors import BatchError
from dit_eval.io.npz import members

_CAPTION = 14  # pixels


def draw_grid(batch: Path, picture: Path, *, images: int = 64) -> None:
    """Draw the first images of an npz in rows of eight or fewer, small ones enlarged, labels above.

    Raises BatchError if the picture cannot be written.
    """
    arrays = members(batch)
    first = next(arrays["arr_0"].blocks(images))
    labels = next(arrays["arr_1"].blocks(images)) if "arr_1" in arrays else [""] * len(first)
    columns = min(8, math.ceil(math.sqrt(len(first))))
    zoom = max(1, 64 // first.shape[1])
    height, width = zoom * first.shape[1] + _CAPTION, zoom * first.shape[2]
    sheet = Image.new("RGB", (columns * width, math.ceil(len(first) / columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(first, labels, strict=True)):
        row, column = divmod(i, columns)
        size = (width, height - _CAPTION)
        tile = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
        pen.text((column * width + 2, row * height + 1), str(label), fill="black")
        sheet.paste(tile, (column * width, row * height + _CAPTION))
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(picture)
    except (OSError, ValueError) as error:
        raise BatchError(f"{picture} cannot be written: {error}. Choose a name that ends in .png.") from None
