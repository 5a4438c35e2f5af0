"""FDr: a Fréchet distance divided by that of the validation images, and FDr⁶, its mean over six spaces.

Both distances are to the statistics of the training images, so 1 means as close as the validation images.
Source: FD-Loss, `eval_all_fds.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.metrics.intervals import standard_error


@dataclass(frozen=True)
class Normaliser:
    """The Fréchet distance of the validation images.

    half_unit: half a unit of the last printed digit, 0 for a number that was computed.
    """

    value: float
    half_unit: float = 0.0

    @classmethod
    def printed(cls, digits: str) -> Normaliser:
        """That of a decimal number in print, such as "0.04", which is 0.04 ± 0.005."""
        decimals = len(digits.partition(".")[2])
        return cls(float(digits), 0.5 * 10**-decimals)


# Of 50,000 ImageNet validation images at 256 pixels, as FD-Loss prints them
PUBLISHED = {
    "inception": Normaliser.printed("1.68"),
    "convnext": Normaliser.printed("56.87"),
    "dinov2": Normaliser.printed("14.19"),
    "mae": Normaliser.printed("0.04"),
    "siglip2": Normaliser.printed("0.60"),
    "clip": Normaliser.printed("5.60"),
}


@dataclass(frozen=True)
class FrechetRatio:
    """A ratio of Fréchet distances, or a mean of such ratios.

    influence: of each sample, centred, (N,); rounding: the standard deviation due to the printed digits of
    the normalisers, which is the same for every set of samples, so that it cancels in most of a comparison.
    """

    value: float
    influence: np.ndarray
    rounding: float

    def standard_error(self) -> float:
        """That of the samples and the normalisers' digits; validation and training images are fixed."""
        return hypot(standard_error(self.influence), self.rounding)


def frechet_ratio(distance: float, influence: np.ndarray, normaliser: Normaliser) -> FrechetRatio:
    """FDr of a Fréchet distance to the training images with its influence (N,), from `frechet_influence`.

    A printed normaliser may be any number that is rounded to its digits, all of them equally probable.
    Raises StatisticsError for a normaliser that may be 0.
    """
    if normaliser.value <= normaliser.half_unit:
        raise StatisticsError(
            f"a Fréchet distance of validation images of {normaliser.value:g} ± {normaliser.half_unit:g} may "
            "be 0; expected a number above 0 with enough digits, or statistics of these images."
        )
    value = distance / normaliser.value
    rounding = value * normaliser.half_unit / (sqrt(3) * normaliser.value)
    return FrechetRatio(value, influence / normaliser.value, rounding)


def mean_ratio(ratios: Iterable[FrechetRatio]) -> FrechetRatio:
    """The mean over spaces for the same samples; FDr⁶ for all of `PUBLISHED`.

    The influences of a sample add up over spaces, because it is the same image in each.
    """
    ratios = list(ratios)
    if not ratios:
        raise StatisticsError("a mean of Fréchet distance ratios needs at least one space, found none.")
    return FrechetRatio(
        float(np.mean([ratio.value for ratio in ratios])),
        np.mean([ratio.influence for ratio in ratios], axis=0),
        hypot(*(ratio.rounding for ratio in ratios)) / len(ratios),
    )


def split_by_training(
    ratios: Mapping[str, FrechetRatio], trained_on: Collection[str]
) -> tuple[dict[str, FrechetRatio], dict[str, FrechetRatio]]:
    """The ratios in spaces whose Fréchet distance was a training loss of the model, and in the others.

    Only those in the others are held out. Raises StatisticsError for a training space without a ratio.
    """
    if unknown := sorted(set(trained_on) - ratios.keys()):
        raise StatisticsError(
            f"no Fréchet distance ratio in the space {', '.join(unknown)}; found: {', '.join(ratios)}."
        )
    trained = {space: ratio for space, ratio in ratios.items() if space in trained_on}
    return trained, {space: ratio for space, ratio in ratios.items() if space not in trained_on}
