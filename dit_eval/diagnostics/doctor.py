"""What is wrong with a batch of images, before its numbers are believed.

One pass over the pixels, one over the labels and, with a feature network, one over its features. Each finding
says what, how bad, what it does to which number, and how to mend it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_eval.errors import BatchError
from dit_eval.evaluation.extraction import FeatureExtraction, Progress
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.references import Reference, open_reference
from dit_eval.features.protocols import Protocol
from dit_eval.io import npz
from dit_eval.io.batches import Images, open_images
from dit_eval.metrics.gaussian import Gaussian

_ROWS = 256  # images of one block
_GRID = 8  # pixels of one block of JPEG
_BLOCKY = 1.04  # steps over that grid against steps inside; clean photographs: at most 1.01, quality 75: 1.06
_SATURATED = 0.95  # share of an image's values that are 0 or 255
_FEW = 0.01  # share of such images that a good batch may have
_IN_RUNS = 0.1  # neighbours of one class beyond those of a shuffled file
_STRANGE_MEAN = 10.0  # squared distance of a stored mean in units of its variance: 1 for its own images
_SORTED_SCORE = 1.1  # order-free inception score over that in file order


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault. bad: the numbers cannot be believed; else they may be right, and not comparable."""

    name: str
    bad: bool
    what: str
    effect: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What one pass over the images finds out."""

    n: int
    size: tuple[int, int]
    duplicates: int
    constant: int
    saturated: int
    grey: int
    blockiness: float  # 1 without a grid of 8 pixels


def diagnose(
    batch: Path,
    reference: Reference | None,
    extraction: FeatureExtraction | None,
    progress: Progress | None = None,
) -> list[Finding]:
    """All that is wrong with a batch of images; with a reference, also what is odd beside it.

    extraction: computes the features that the checks of order, inception score and stored statistics need;
    None checks pixels and labels only. Raises DitEvalError for a file that cannot be read.
    """
    found = list(_in_file(batch))
    if found:
        return found  # nothing else can be read of it
    images = open_images(batch)
    theirs = scan_pixels(reference.images) if reference and reference.images else None
    found += _in_pixels(scan_pixels(images), theirs)
    labels = _labels(batch)
    if labels is not None:
        found += _in_labels(labels)
    if extraction is None:
        return found
    statistics, _ = extraction.extract(images, "samples", progress)
    assert statistics is not None
    found += _in_features(statistics, extraction.protocol)
    stored = open_reference(batch).pool
    if stored:
        found += _in_statistics(stored, statistics, "batch")
    if reference and reference.pool and reference.images:
        beside, _ = extraction.extract(reference.images, "reference", progress)
        assert beside is not None
        found += _in_statistics(reference.pool, beside, "reference")
    return found


def _in_file(path: Path) -> Iterator[Finding]:
    """Faults that keep a file from being evaluated at all: floats, and NaN in them."""
    if path.suffix != ".npz":
        return
    array = npz.members(path).get("arr_0")
    if array is None or array.dtype.kind != "f":
        return
    broken = sum(int((~np.isfinite(block)).sum()) for block in array.blocks(_ROWS))
    yield Finding(
        name="floats",
        bad=True,
        what=f"arr_0 is {array.dtype}, and {broken:,} of its values are NaN or infinite",
        effect="no number at all: images are uint8",
        remedy="find where the sampler diverges; " * bool(broken)
        + "convert with a named rounding, e.g. (127.5 * x + 128).clip(0, 255).astype(np.uint8)",
    )


def _in_pixels(pixels: Pixels, reference: Pixels | None) -> Iterator[Finding]:
    """Duplicates; constant, saturated and grey images; traces of JPEG; another size than the reference's."""
    n = pixels.n
    if pixels.duplicates:
        yield Finding(
            name="duplicates",
            bad=True,
            what=f"{pixels.duplicates:,} of {n:,} images are copies of another",
            effect="FID and recall are those of a smaller batch; copies often come from ranks with one seed",
            remedy="draw every index once, with noise that depends on (seed, index)",
        )
    if pixels.constant > _FEW * n:
        yield Finding(
            name="constant",
            bad=True,
            what=f"{pixels.constant:,} of {n:,} images have one colour only",
            effect="FID, sFID and recall suffer; such images come from NaN or from unfilled arrays",
            remedy="look at them, and draw those indices again",
        )
    theirs = reference.saturated / reference.n if reference else 0
    if pixels.saturated / n > theirs + _FEW:
        yield Finding(
            name="saturated",
            bad=True,
            what=f"{pixels.saturated:,} of {n:,} images are almost wholly 0 or 255",
            effect="every number suffers: a wrong range before rounding, or too much guidance",
            remedy="map -1…1 to 0…255 once; check the VAE's scale factor",
        )
    theirs = reference.grey / reference.n if reference else 0
    if pixels.grey / n > theirs + 0.1:
        yield Finding(
            name="grey",
            bad=True,
            what=f"{pixels.grey:,} of {n:,} images are grey",
            effect="FID and sFID measure the missing colour",
            remedy="check the channels of the decoder and of the writer",
        )
    if pixels.blockiness > max(_BLOCKY, 1.02 * (reference.blockiness if reference else 1)):
        yield Finding(
            name="jpeg",
            bad=True,
            what=f"steps over a grid of 8 pixels are {pixels.blockiness:.2f} times those inside it",
            effect="JPEG moves FID by up to several points",
            remedy="save .npz or PNG; the images must be drawn again",
        )
    if reference and pixels.size != reference.size:
        yield Finding(
            name="size",
            bad=False,
            what=f"images of {_size(pixels)}, and the reference's are {_size(reference)}",
            effect="the resize to the network differs: FID has moved from 2.45 to 2.15",
            remedy="sample at the reference's size, or choose the reference of this size",
        )


def _in_labels(labels: np.ndarray) -> Iterator[Finding]:
    """Order and balance of the labels (N,) in arr_1."""
    if _in_runs(labels):
        yield _sorted("labels in arr_1")
    counts = np.bincount(labels - labels.min())
    expected = len(labels) / len(counts)
    excess = ((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)
    if len(counts) > 1 and excess > 6 * np.sqrt(2 * (len(counts) - 1)):
        yield Finding(
            name="balance",
            bad=False,
            what=f"classes have from {counts.min():,} to {counts.max():,} images",
            effect="FID and recall measure the missing classes",
            remedy="draw labels uniformly at random, as the papers do",
        )


def _in_features(statistics: FeatureStats, protocol: Protocol) -> Iterator[Finding]:
    """Too few images; file order by predicted class; an inception score that the order has changed."""
    n, dimension = statistics.features.shape
    if n <= dimension:
        yield Finding(
            name="few",
            bad=False,
            what=f"{n:,} images for {dimension:,} features",
            effect="the covariance has no full rank: FID and sFID compare with nothing",
            remedy=f"draw more than {dimension:,}; the papers' numbers take 50,000",
        )
    in_order, free = statistics.score.in_file_order(), statistics.score.order_free()
    if n > protocol.inception_score_chunk and free > _SORTED_SCORE * in_order:
        yield Finding(
            name="inception-score",
            bad=True,
            what=f"the inception score is {in_order:.2f} in file order and {free:.2f} over all images",
            effect="ADM's number takes chunks in file order, and so depends on it",
            remedy="shuffle the file",
        )
    if _in_runs(statistics.probabilities[:].argmax(axis=1)):
        yield _sorted("predicted classes")


def _in_statistics(stored: Gaussian, statistics: FeatureStats, whose: str) -> Iterator[Finding]:
    """Stored statistics of pool features that are not those of the images beside them."""
    shift = statistics.pool.gaussian().mean - stored.mean
    strangeness = float(statistics.n * (shift @ shift) / np.trace(stored.covariance))
    if strangeness > _STRANGE_MEAN:
        yield Finding(
            name="statistics",
            bad=True,
            what=f"the {whose}'s stored mean is {strangeness:,.0f} times as far from its images' as chance",
            effect="FID and sFID are those of other images; ADM's program believes them in silence",
            remedy="make them again with `dit-eval ref make`, or delete mu, sigma, mu_s and sigma_s",
        )


def scan_pixels(images: Images) -> Pixels:
    """One pass over the images; a digest of 16 bytes for each is kept."""
    seen: set[bytes] = set()
    constant = saturated = grey = 0
    steps = np.zeros((2, _GRID))
    for block in images.blocks(_ROWS):
        seen |= {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in block}
        flat = block.reshape(len(block), -1)
        constant += int((np.ptp(block, axis=(1, 2)) == 0).all(axis=1).sum())
        saturated += int((((flat == 0) | (flat == 255)).mean(axis=1) > _SATURATED).sum())
        grey += int((block == block[..., :1]).all(axis=(1, 2, 3)).sum())
        steps += _steps(block)
    phases = steps[:, -1] / np.maximum(steps[:, :-1].mean(axis=1), 1e-12)
    return Pixels(
        n=len(images),
        size=images.size,
        duplicates=len(images) - len(seen),
        constant=constant,
        saturated=saturated,
        grey=grey,
        blockiness=float(phases.min()) if min(images.size) >= 4 * _GRID else 1.0,
    )


def _labels(path: Path) -> np.ndarray | None:
    """The labels in arr_1 (N,), None where there are none. Raises BatchError if they are no class numbers."""
    array = npz.members(path).get("arr_1") if path.suffix == ".npz" else None
    if array is None:
        return None
    labels = array.read()
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BatchError(
            f"{path}: arr_1 is {labels.dtype} of shape {labels.shape}; expected one whole number an image."
        )
    return labels.astype(np.int64)


def _steps(block: np.ndarray) -> np.ndarray:
    """Mean absolute steps between neighbours, (axis, column modulo 8), summed over images."""
    light = block.astype(np.float32).mean(axis=-1)
    found = np.zeros((2, _GRID))
    for axis, plane in enumerate((light, light.transpose(0, 2, 1))):
        step = np.abs(np.diff(plane, axis=2)).mean(axis=1).sum(axis=0)
        for phase in range(_GRID):
            if phase < len(step):
                found[axis, phase] = step[phase::_GRID].mean()
    return found


def _in_runs(classes: np.ndarray) -> bool:
    """True if neighbours in the file share their class more often than in a shuffled one."""
    agree = np.mean(classes[1:] == classes[:-1])
    chance = np.sum((np.unique(classes, return_counts=True)[1] / len(classes)) ** 2)
    noise = 6 * np.sqrt(chance * (1 - chance) / len(classes))
    return bool(agree > chance + max(_IN_RUNS, noise))


def _sorted(what: str) -> Finding:
    return Finding(
        name="order",
        bad=False,
        what=f"the file is in order of class, by its {what}",
        effect="the inception score in file order falls (62 instead of 298 has been seen)",
        remedy="shuffle images and labels together",
    )


def _size(pixels: Pixels) -> str:
    return f"{pixels.size[0]}×{pixels.size[1]}"
