"""Problems in a batch of images that would affect its metrics.

One pass over the pixels, one over the labels and, with a feature network, one over the features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.diagnostics.pixel_stats import COLOURS, PixelStats, scan_pixels
from dit_eval.errors import DitEvalWarning
from dit_eval.evaluation.references import Reference, open_reference
from dit_eval.features.protocols import Protocol
from dit_eval.io import npz
from dit_eval.io.batches import open_images
from dit_eval.io.crops import NO_OPTIONS, ImageOptions
from dit_eval.io.files import file_kind
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.inception_score import SORTED_SCORE_RATIO

if TYPE_CHECKING:  # imports torch
    from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction
    from dit_eval.evaluation.feature_stats import FeatureStats

_BLOCK_IMAGES = 256  # images read at once
_MAX_BLOCKINESS = 1.04  # clean photographs: at most 1.01; JPEG of quality 75: 1.06
_MAX_BAD_IMAGES = 0.01  # share of constant or saturated images that a good batch may have
_MAX_GREY_EXCESS = 0.1  # share of grey images beyond the reference's
# Difference of the medians of brightness, contrast or tint, in standard deviations over the reference's
# images: 1.8 for 250 ImageNet photographs of half the brightness, 0.9 with red and blue swapped, 0.3 for
# samples of the bundled models. Random subsets of 40 to 100 photographs and of 40 to 200 bundled digits,
# 5,000 of each size, reached 6.1 standard errors.
_MAX_COLOUR_SHIFT = 0.5
_MAX_COLOUR_NOISE = 7.0  # standard errors
_MAX_CLASS_RUNS = 0.1  # share of consecutive images of one class beyond that of a shuffled file
_STATISTICS_REMEDY = "recompute them with `dit-eval ref make`, or delete mu, sigma, mu_s and sigma_s"
_MAX_MEAN_SHIFT = 10.0  # squared distance from a stored mean, in its expected value for the same images


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem of a batch. invalidates: the metrics are wrong, not merely hard to compare."""

    name: str
    invalidates: bool
    description: str
    effect: str
    remedy: str


def doctor(
    batch: str | Path,
    reference: str | Path | None = None,
    *,
    protocol: str | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    image_size: int | None = None,
    crop: str | None = None,
    key: str = "arr_0",
    pixels_only: bool = False,
    progress: ExtractionProgress | None = None,
) -> list[Problem]:
    """Find problems in a batch of images that would affect its metrics.

    reference: a path or a registered name, to find deviations from it too; pixels_only: skip the checks that
    need a feature network; the other parameters: see `evaluate`. Raises DitEvalError for a file that cannot
    be read.

    >>> [problem.name for problem in dit_eval.doctor("batch.npz", "digits")]
    ['colours', 'few']
    """
    image_options = ImageOptions(image_size=image_size, crop=crop, key=key)
    opened = open_reference(reference, offline=offline, options=image_options) if reference else None
    extraction = None
    if not pixels_only:
        from dit_eval.evaluation.extraction import load_extraction  # imports torch

        extraction = load_extraction(
            protocol or (opened.protocol if opened else None),
            inception=inception,
            device=device,
            batch_size=batch_size,
            offline=offline,
        )
    problems = diagnose(Path(batch), opened, extraction, progress, image_options)
    for note in opened.notes if opened else ():  # some are known only after the images have been read
        warnings.warn(note, DitEvalWarning, stacklevel=2)
    return problems


def diagnose(
    batch: Path,
    reference: Reference | None,
    extraction: FeatureExtraction | None,
    progress: ExtractionProgress | None = None,
    options: ImageOptions = NO_OPTIONS,
) -> list[Problem]:
    """The problems of a batch of images; with a reference, also deviations from it.

    extraction: computes the features for the checks of order, inception score and stored statistics; None
    checks pixels and labels only; options: how the batch's images are read. Raises DitEvalError for a file
    that cannot be read.
    """
    problems = list(_check_dtype(batch, options.key))
    if problems:
        return problems  # the images cannot be read
    images = open_images(batch, options)
    problems += map(_skipped_problem, images.skipped)
    reference_pixels = scan_pixels(reference.images) if reference and reference.images else None
    problems += _check_pixels(scan_pixels(images), reference_pixels)
    labels = images.labels()
    problems += _check_labels(labels) if labels is not None else _check_ignored_labels(batch, len(images))
    if extraction is None:
        return problems
    stats, _ = extraction.extract(images, "samples", progress)
    assert stats is not None
    problems += _check_features(stats, extraction.protocol)
    stored = open_reference(batch, options=options).pool
    if stored:
        problems += _check_statistics(stored, stats, "batch")
    if reference and reference.pool and reference.images:
        reference_stats, _ = extraction.extract(reference.images, "reference", progress)
        assert reference_stats is not None
        problems += _check_statistics(reference.pool, reference_stats, "reference")
    return problems


def _check_dtype(path: Path, key: str) -> Iterator[Problem]:
    """Floating-point images, which cannot be evaluated, and NaN among their values."""
    if file_kind(path) != "npz":
        return
    array = npz.members(path).get(key)
    if array is None or array.dtype.kind != "f":
        return
    broken = sum(int((~np.isfinite(block)).sum()) for block in array.blocks(_BLOCK_IMAGES))
    yield Problem(
        name="floats",
        invalidates=True,
        description=f"{key} is {array.dtype}, and {broken:,} of its values are NaN or infinite",
        effect="the batch cannot be evaluated; images are uint8",
        remedy="find where the sampler diverges; "
        * bool(broken)
        + "convert with explicit rounding, e.g. (127.5 * x + 128).clip(0, 255).astype(np.uint8) for x in "
        "-1…1, as DiT does",
    )


def _skipped_problem(note: str) -> Problem:
    return Problem(
        name="skipped",
        invalidates=False,
        description=note.removesuffix("."),
        effect="the metrics are those of the other files",
        remedy="remove these files, or rename them if they belong to the batch",
    )


def _check_pixels(pixels: PixelStats, reference: PixelStats | None) -> Iterator[Problem]:
    """Duplicates; constant, saturated and grey images; JPEG artefacts; a size other than the reference's."""
    n = pixels.n
    if pixels.duplicates:
        yield Problem(
            name="duplicates",
            invalidates=True,
            description=f"{pixels.duplicates:,} of {n:,} images are copies of another",
            effect="FID and recall are those of a smaller batch; a common cause is ranks that share a seed",
            remedy="sample every index once, with noise that depends on (seed, index)",
        )
    if pixels.constant > _MAX_BAD_IMAGES * n:
        yield Problem(
            name="constant",
            invalidates=True,
            description=f"{pixels.constant:,} of {n:,} images have a single colour",
            effect="FID, sFID and recall suffer; such images come from NaN or unfilled arrays",
            remedy="inspect these images and sample them again",
        )
    expected = reference.saturated / reference.n if reference else 0
    if pixels.saturated / n > expected + _MAX_BAD_IMAGES:
        yield Problem(
            name="saturated",
            invalidates=True,
            description=f"{pixels.saturated:,} of {n:,} images consist almost entirely of 0 and 255",
            effect="all metrics suffer; the cause is a wrong range before rounding, or too much guidance",
            remedy="map -1…1 to 0…255 exactly once; check the VAE's scale factor",
        )
    if reference and pixels.grey / n > reference.grey / reference.n + _MAX_GREY_EXCESS:
        yield Problem(
            name="grey",
            invalidates=False,
            description=f"{pixels.grey:,} of {n:,} images are grey, {reference.grey:,} of {reference.n:,} in "
            "the reference",
            effect="FID and sFID measure the missing colour",
            remedy="check the channels of the decoder and of the code that writes the images",
        )
    if reference:
        yield from _check_colours(pixels, reference)
    if pixels.blockiness > max(_MAX_BLOCKINESS, 1.02 * (reference.blockiness if reference else 1)):
        yield Problem(
            name="jpeg",
            invalidates=True,
            description=f"steps at the borders of 8×8 blocks are {pixels.blockiness:.2f} times those inside",
            effect="JPEG changes FID by up to several points",
            remedy="save .npz or PNG; the images must be sampled again",
        )
    if reference and pixels.size != reference.size:
        yield Problem(
            name="size",
            invalidates=False,
            description=f"images are {_format_size(pixels)}, the reference's are {_format_size(reference)}",
            effect="the resize to the network's input differs; FID has changed from 2.45 to 2.15 this way",
            remedy="sample at the reference's size, or choose a reference of this size",
        )


def _check_colours(pixels: PixelStats, reference: PixelStats) -> Iterator[Problem]:
    """Brightness, contrast and tint other than the reference's; red and blue swapped."""
    shifts = colour_shifts(pixels.colours, reference)
    if not shifts:
        return
    swapped = not colour_shifts(pixels.colours * (1, 1, -1, 1), reference)
    if swapped:
        yield Problem(
            name="channels",
            invalidates=True,
            description=f"{'; '.join(shifts)}: with red and blue swapped, the colours are the reference's",
            effect="all metrics are those of images with wrong colours",
            remedy="write the channels in the order red, green, blue; OpenCV's is blue, green, red",
        )
    else:
        yield Problem(
            name="colours",
            invalidates=False,
            description="; ".join(shifts),
            effect="all metrics measure this deviation",
            remedy="check the value range before rounding, the VAE's scale factor and the colour space",
        )


def colour_shifts(colours: np.ndarray, reference: PixelStats) -> list[str]:
    """What deviates from the reference in colours (n, 4)."""
    medians, expected = np.median(colours, axis=0), np.median(reference.colours, axis=0)
    spread = np.maximum(reference.colours.std(axis=0), 1.0)
    noise = np.sqrt(1 / len(colours) + 1 / reference.n)
    limit = spread * max(_MAX_COLOUR_SHIFT, _MAX_COLOUR_NOISE * noise)
    return [
        f"the median {name} is {medians[i]:z.0f} and the reference's {expected[i]:z.0f}"
        for i, name in enumerate(COLOURS)
        if abs(medians[i] - expected[i]) > limit[i]
    ]


def _check_ignored_labels(path: Path, n: int) -> Iterator[Problem]:
    """Labels that do not belong to the images."""
    labels = npz.members(path).get("arr_1") if file_kind(path) == "npz" else None
    if labels is not None:
        yield Problem(
            name="labels",
            invalidates=False,
            description=f"arr_1 is {labels.dtype} of shape {labels.shape}, and there are {n:,} images",
            effect="arr_1 is ignored: neither order nor balance is checked, and no metric is split by class",
            remedy="store one integer per image in arr_1; check that no image or label is missing",
        )


def _check_labels(labels: np.ndarray) -> Iterator[Problem]:
    """Order and balance of the labels (N,)."""
    if _is_sorted(labels):
        yield _sorted_problem("labels")
    present, counts = np.unique(labels, return_counts=True)
    classes = int(present[-1]) - int(present[0]) + 1
    fewest = int(counts.min()) if len(present) == classes else 0
    # Pearson's statistic of all classes in the range, the absent ones included
    excess = float((counts.astype(float) ** 2).sum()) * classes / len(labels) - len(labels) - (classes - 1)
    if classes > 1 and excess > 6 * math.sqrt(2 * (classes - 1)):
        yield Problem(
            name="balance",
            invalidates=False,
            description=f"classes {present[0]} to {present[-1]} have between {fewest:,} and {counts.max():,} "
            "images",
            effect="FID and recall measure the missing classes",
            remedy="draw labels uniformly at random, as the papers do",
        )


def _check_features(stats: FeatureStats, protocol: Protocol) -> Iterator[Problem]:
    """Too few images; file order by predicted class; an inception score that depends on the order."""
    n, dimension = stats.features.shape
    if n <= dimension:
        yield Problem(
            name="few",
            invalidates=False,
            description=f"{n:,} images for {dimension:,} features",
            effect="the covariance is rank-deficient, so FID and sFID have a bias that depends on n",
            remedy=f"sample more than {dimension:,} images, or compare only with results of {n:,} images",
        )
    in_order, order_free = stats.score.in_file_order(), stats.score.order_free()
    if n > protocol.inception_score_chunk and order_free > SORTED_SCORE_RATIO * in_order:
        yield Problem(
            name="inception-score",
            invalidates=True,
            description=f"inception score {in_order:.2f} in file order, {order_free:.2f} over all images",
            effect="ADM's inception score uses chunks in file order, and so depends on it",
            remedy="shuffle the file",
        )
    if _is_sorted(stats.probabilities[:].argmax(axis=1)):
        yield _sorted_problem("predicted classes")


def _check_statistics(stored: Gaussian, stats: FeatureStats, owner: str) -> Iterator[Problem]:
    """Stored statistics of pool features that were not computed from the images in the same file."""
    length, dimension = len(stored.mean), len(stats.pool.mean)
    if length != dimension:
        yield Problem(
            name="statistics",
            invalidates=True,
            description=f"the {owner}'s stored mean has {length:,} entries for {dimension:,} features",
            effect="FID cannot be computed; the statistics are those of another feature network",
            remedy=_STATISTICS_REMEDY,
        )
        return
    difference = stats.pool.mean - stored.mean
    variance = max(np.trace(stored.covariance), np.finfo(float).tiny)
    shift = float(stats.n * (difference @ difference) / variance)
    if shift > _MAX_MEAN_SHIFT:
        yield Problem(
            name="statistics",
            invalidates=True,
            description=f"the {owner}'s stored mean is {shift:,.0f} times as far from its images' as usual",
            effect="FID and sFID are those of other images; ADM's evaluator uses such statistics silently",
            remedy=_STATISTICS_REMEDY,
        )


def _is_sorted(classes: np.ndarray) -> bool:
    """True if consecutive images share their class more often than in a shuffled file."""
    if len(classes) < 2:
        return False
    agree = np.mean(classes[1:] == classes[:-1])
    chance = np.sum((np.unique(classes, return_counts=True)[1] / len(classes)) ** 2)
    noise = 6 * np.sqrt(chance * (1 - chance) / len(classes))
    return bool(agree > chance + max(_MAX_CLASS_RUNS, noise))


def _sorted_problem(evidence: str) -> Problem:
    return Problem(
        name="order",
        invalidates=False,
        description=f"the file is sorted by class, according to its {evidence}",
        effect="the inception score in file order drops (62 instead of 298 has been observed)",
        remedy="shuffle images and labels together",
    )


def _format_size(pixels: PixelStats) -> str:
    return f"{pixels.size[0]}×{pixels.size[1]}"
