from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_eval.errors import ModelError
from dit_eval.runtime.rounding import Quantizer


def rounded(values: torch.Tensor, rounding: str, value_range: tuple[float, float] = (-1, 1)) -> torch.Tensor:
    """The grey levels of values (N,)."""
    return Quantizer(rounding, value_range)(values.view(1, 1, 1, -1))[0, 0, :, 0]


@pytest.mark.parametrize(
    ("rounding", "first"),  # x at which grey level k begins
    [
        ("dit", lambda k: (k - 128) / 127.5),
        ("round", lambda k: (k - 0.5) / 127.5 - 1),
        ("truncate", lambda k: k / 127.5 - 1),
    ],
)
@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_every_grey_level_begins_where_its_formula_reaches_it(rounding, first, value_range):
    levels = torch.arange(1, 256)
    low, high = value_range
    thresholds = (first(levels) + 1) / 2 * (high - low) + low
    assert torch.equal(rounded(thresholds - 1e-5, rounding, value_range).int(), levels - 1)
    assert torch.equal(rounded(thresholds + 1e-5, rounding, value_range).int(), levels)


@pytest.mark.parametrize("rounding", ["dit", "round", "truncate"])
def test_values_out_of_range_are_clipped(rounding):
    assert rounded(torch.tensor([-9.0, -1.0, 1.0, 9.0]), rounding).tolist() == [0, 0, 255, 255]


def test_rounding_is_that_of_numpy_in_the_repositories_that_round():
    """`np.round(np.clip(255 * (x + 1) / 2, 0, 255))`, as MAR and JiT write it."""
    x = torch.linspace(-1.2, 1.2, 10_001)
    expected = np.round(np.clip(((x + 1) / 2).numpy() * 255, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(rounded(x, "round").numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_become_rgb(channels):
    x = torch.linspace(-1, 1, 2 * channels * 16).view(2, channels, 4, 4)
    images = Quantizer()(x)
    assert images.shape == (2, 4, 4, 3)
    assert torch.equal(images[0, :, :, 2].flatten(), rounded(x[0, -1].flatten(), "dit"))


def test_uint8_images_stay_as_they_are():
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(Quantizer("truncate")(images), images)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 4, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 2, 2).int(),
    ],
    ids=lambda images: f"{images.dtype} {tuple(images.shape)}",
)
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ModelError, match=r"expected floats \(N, 3, H, W\) or uint8 \(N, H, W, 3\)"):
        Quantizer()(images)


def test_share_of_clipped_values_leaves_out_what_rounding_would_remove():
    quantizer = Quantizer()
    quantizer(torch.tensor([1.0, 1.007, -1.007, 0.0]).view(1, 1, 2, 2))  # a grey level is 2 / 255 = 0.0078
    assert quantizer.clipped_share() == 0
    quantizer(torch.tensor([1.0, 1.1, 0.0, 0.0]).view(1, 1, 2, 2))
    assert quantizer.clipped_share() == pytest.approx(0.25 / 2)
