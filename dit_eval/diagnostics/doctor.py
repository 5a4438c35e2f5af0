"""Problems in a batch of images that would affect its metrics.

One pass over the pixels, one over the labels and, with a feature network, one over the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.references import Reference, open_reference
from dit_eval.features.protocols import Protocol
from dit_eval.io import npz
from dit_eval.io.batches import Images, open_images
from dit_eval.io.files import file_kind
from dit_eval.metrics.gaussian import Gaussian

if TYPE_CHECKING:  # imports torch
    from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction

_BLOCK_IMAGES = 256  # images read at once
_JPEG_BLOCK = 8  # pixels
_MAX_BLOCKINESS = 1.04  # clean photographs: at most 1.01; JPEG of quality 75: 1.06
_SATURATED_SHARE = 0.95  # of an image's values that are 0 or 255
_MAX_BAD_IMAGES = 0.01  # share of constant or saturated images that a good batch may have
_MAX_GREY_EXCESS = 0.1  # share of grey images beyond the reference's
_MAX_CLASS_RUNS = 0.1  # share of consecutive images of one class beyond that of a shuffled file
_MAX_MEAN_SHIFT = 10.0  # squared distance from a stored mean, in its expected value for the same images


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem of a batch. invalidates: the metrics are wrong, not merely hard to compare."""

    name: str
    invalidates: bool
    description: str
    effect: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class PixelStats:
    """Counts of images with a property, from one pass over the pixels.

    blockiness: steps across the borders of 8×8 blocks relative to steps inside them; 1 without JPEG.
    """

    n: int
    size: tuple[int, int]
    duplicates: int
    constant: int
    saturated: int
    grey: int
    blockiness: float


def diagnose(
    batch: Path,
    reference: Reference | None,
    extraction: FeatureExtraction | None,
    progress: ExtractionProgress | None = None,
) -> list[Problem]:
    """The problems of a batch of images; with a reference, also deviations from it.

    extraction: computes the features for the checks of order, inception score and stored statistics; None
    checks pixels and labels only. Raises DitEvalError for a file that cannot be read.
    """
    problems = list(_check_dtype(batch))
    if problems:
        return problems  # the images cannot be read
    images = open_images(batch)
    problems += map(_skipped_problem, images.notes)
    reference_pixels = scan_pixels(reference.images) if reference and reference.images else None
    problems += _check_pixels(scan_pixels(images), reference_pixels)
    labels = images.labels()
    if labels is not None:
        problems += _check_labels(labels)
    if extraction is None:
        return problems
    stats, _ = extraction.extract(images, "samples", progress)
    assert stats is not None
    problems += _check_features(stats, extraction.protocol)
    stored = open_reference(batch).pool
    if stored:
        problems += _check_statistics(stored, stats, "batch")
    if reference and reference.pool and reference.images:
        reference_stats, _ = extraction.extract(reference.images, "reference", progress)
        assert reference_stats is not None
        problems += _check_statistics(reference.pool, reference_stats, "reference")
    return problems


def _check_dtype(path: Path) -> Iterator[Problem]:
    """Floating-point images, which cannot be evaluated, and NaN among their values."""
    if file_kind(path) != "npz":
        return
    array = npz.members(path).get("arr_0")
    if array is None or array.dtype.kind != "f":
        return
    broken = sum(int((~np.isfinite(block)).sum()) for block in array.blocks(_BLOCK_IMAGES))
    yield Problem(
        name="floats",
        invalidates=True,
        description=f"arr_0 is {array.dtype}, and {broken:,} of its values are NaN or infinite",
        effect="the batch cannot be evaluated; images are uint8",
        remedy="find where the sampler diverges; " * bool(broken)
        + "convert with explicit rounding, e.g. (127.5 * x + 128).clip(0, 255).astype(np.uint8)",
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
    expected = reference.grey / reference.n if reference else 0
    if pixels.grey / n > expected + _MAX_GREY_EXCESS:
        yield Problem(
            name="grey",
            invalidates=True,
            description=f"{pixels.grey:,} of {n:,} images are grey",
            effect="FID and sFID measure the missing colour",
            remedy="check the channels of the decoder and of the code that writes the images",
        )
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


def _check_labels(labels: np.ndarray) -> Iterator[Problem]:
    """Order and balance of the labels (N,) in arr_1."""
    if _is_sorted(labels):
        yield _sorted_problem("labels in arr_1")
    counts = np.bincount(labels.astype(np.int64) - int(labels.min()))
    expected = len(labels) / len(counts)
    excess = ((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)
    if len(counts) > 1 and excess > 6 * np.sqrt(2 * (len(counts) - 1)):
        yield Problem(
            name="balance",
            invalidates=False,
            description=f"classes have between {counts.min():,} and {counts.max():,} images",
            effect="FID and recall measure the missing classes",
            remedy="draw labels uniformly at random, as the papers do",
        )


def _check_features(stats: FeatureStats, protocol: Protocol) -> Iterator[Problem]:
    """Too few images; file order by predicted class; an inception score that depends on the order."""
    from dit_eval.evaluation.pipeline import SORTED_SCORE_RATIO  # imports torch

    n, dimension = stats.features.shape
    if n <= dimension:
        yield Problem(
            name="few",
            invalidates=False,
            description=f"{n:,} images for {dimension:,} features",
            effect="the covariance is rank-deficient; FID and sFID are not comparable with other results",
            remedy=f"sample more than {dimension:,} images; published numbers use 50,000",
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
    difference = stats.pool.mean - stored.mean
    shift = float(stats.n * (difference @ difference) / np.trace(stored.covariance))
    if shift > _MAX_MEAN_SHIFT:
        yield Problem(
            name="statistics",
            invalidates=True,
            description=f"the {owner}'s stored mean is {shift:,.0f} times as far from its images' as usual",
            effect="FID and sFID are those of other images; ADM's evaluator uses such statistics silently",
            remedy="recompute them with `dit-eval ref make`, or delete mu, sigma, mu_s and sigma_s",
        )


def scan_pixels(images: Images) -> PixelStats:
    """One pass over the images; duplicates are found by 16-byte digests."""
    digests: set[bytes] = set()
    constant = saturated = grey = 0
    steps = np.zeros((2, _JPEG_BLOCK))
    for block in images.blocks(_BLOCK_IMAGES):
        digests |= {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in block}
        flat = block.reshape(len(block), -1)
        constant += int((np.ptp(block, axis=(1, 2)) == 0).all(axis=1).sum())
        saturated += int((((flat == 0) | (flat == 255)).mean(axis=1) > _SATURATED_SHARE).sum())
        grey += int((block == block[..., :1]).all(axis=(1, 2, 3)).sum())
        steps += _steps(block)
    ratios = steps[:, -1] / np.maximum(steps[:, :-1].mean(axis=1), 1e-12)
    return PixelStats(
        n=len(images),
        size=images.size,
        duplicates=len(images) - len(digests),
        constant=constant,
        saturated=saturated,
        grey=grey,
        blockiness=float(ratios.min()) if min(images.size) >= 4 * _JPEG_BLOCK else 1.0,
    )


def _steps(block: np.ndarray) -> np.ndarray:
    """Mean absolute difference of adjacent pixels by (axis, position modulo 8), summed over images."""
    luminance = block.astype(np.float32).mean(axis=-1)
    steps = np.zeros((2, _JPEG_BLOCK))
    for axis, plane in enumerate((luminance, luminance.transpose(0, 2, 1))):
        columns = np.abs(np.diff(plane, axis=2)).mean(axis=1).sum(axis=0)
        for phase in range(min(_JPEG_BLOCK, len(columns))):
            steps[axis, phase] = columns[phase::_JPEG_BLOCK].mean()
    return steps


def _is_sorted(classes: np.ndarray) -> bool:
    """True if consecutive images share their class more often than in a shuffled file."""
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
