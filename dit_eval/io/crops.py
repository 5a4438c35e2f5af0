"""From photographs of any size to square images: the crops of ADM's and torchvision's loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dit_eval.errors import UsageError, require_choices, require_positive

_NONE = "none"


@dataclass(frozen=True)
class Crop:
    """A centre crop by a function of `CROPS`; size: of both sides of its result in pixels."""

    name: str
    size: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The crop of an RGB image of any size: uint8 (size, size, 3)."""
        return CROPS[self.name](image, self.size)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are found in a file and brought to one size. Raises UsageError for contradictory options.

    image_size: both sides of all images in pixels, None for any size that they share; crop: how the images of
    a folder or a zip get this size: "adm", "center", or "none" if they must have it already; None means "adm"
    if there is an image_size. key: the name of the array of images in an .npz.
    """

    image_size: int | None = None
    crop: str | None = None
    key: str = "arr_0"

    def __post_init__(self) -> None:
        if self.image_size is not None:
            require_positive(image_size=self.image_size)
        if self.crop is not None:
            require_choices(crop=(self.crop, (*CROPS, _NONE)))
        if self.image_size is None and self.crop in CROPS:
            raise UsageError(f"--crop {self.crop} needs the size of its result, e.g. --image-size 256.")

    def file_crop(self) -> Crop | None:
        """The crop of image files, None if they are used as they are."""
        if self.image_size is None or self.crop == _NONE:
            return None
        return Crop(self.crop or "adm", self.image_size)


def _adm_crop(image: Image.Image, size: int) -> np.ndarray:
    """As `center_crop_arr` of ADM's image_datasets.py, which DiT and SiT use too."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def _torchvision_crop(image: Image.Image, size: int) -> np.ndarray:
    """As torchvision's Resize(size, BICUBIC) and CenterCrop(size) of a PIL image."""
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(image)[top : top + size, left : left + size]


CROPS: dict[str, Callable[[Image.Image, int], np.ndarray]] = {"adm": _adm_crop, "center": _torchvision_crop}
NO_OPTIONS = ImageOptions()
