"""Resizes against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_eval.features.resize import RESIZES, tf1_bilinear

RNG = np.random.default_rng(4)


def by_definition(images: np.ndarray) -> np.ndarray:
    """TensorFlow 1: position i·(H/299) in float32, indices clamped, everything else in float64."""
    x = images.astype(np.float64)
    for axis in (1, 2):
        size = x.shape[axis]
        position = np.arange(299, dtype=np.float32) * np.float32(size / 299)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, size - 1)
        weight = (position - low.astype(np.float32)).astype(np.float64)
        weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return (x - 128) / 128


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (256, 256), (299, 299), (512, 512), (100, 37)])
def test_bilinear_is_tensorflow_1s(size: tuple[int, int]) -> None:
    images = RNG.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    found = tf1_bilinear(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - by_definition(images)).max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 5])
def test_bilinear_is_the_same_with_any_number_of_threads(n: int) -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8))
    before = torch.get_num_threads()
    resized = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        resized.append(tf1_bilinear(images))
    torch.set_num_threads(before)
    assert all(torch.equal(images, resized[0]) for images in resized)


def clean(images: np.ndarray) -> np.ndarray:
    """Both steps of the resize of clean-fid: (N, 299, 299, 3)."""
    resize = RESIZES["clean-fid-bicubic"]
    assert resize.on_host is not None
    resized = torch.from_numpy(np.stack([resize.on_host(image) for image in images]))
    return resize.on_device(resized).permute(0, 2, 3, 1).numpy()


def test_images_of_299_pixels_are_not_resized() -> None:
    images = RNG.integers(0, 256, (1, 299, 299, 3), dtype=np.uint8)
    expected = (images.astype(np.float32) - 128) / 128
    assert (tf1_bilinear(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy() == expected).all()
    assert (clean(images) == expected).all()


def test_clean_resize_is_clean_fids() -> None:
    from cleanfid.resize import build_resizer

    images = RNG.integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)
    expected = np.stack([build_resizer("clean")(image) for image in images])
    assert (clean(images) == (expected - 128) / 128).all()
