"""The evaluation story: batches → features → statistics → metrics → Result."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import StatisticsError, UsageError
from dit_eval.evaluation.extraction import FeatureExtraction, Progress, load_extraction
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.references import (
    Reference,
    has_statistics,
    open_reference,
    require_same_protocol,
    write_reference,
)
from dit_eval.io.batch_record import read_record
from dit_eval.io.batches import ArrayImages, Images, open_images
from dit_eval.metrics.by_class import inside_by_class
from dit_eval.metrics.fid_infinity import extrapolated_distance, subset_sizes
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.inception_score import score_influence
from dit_eval.metrics.intervals import interval
from dit_eval.metrics.precision_recall import precision_recall, require_points
from dit_eval.results.comparability import fingerprint
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import process_group
from dit_eval.version import __version__

_SORTED = 1.1  # order-free score over the file's: chunks of a shuffled file agree to a few per cent


def evaluate(
    samples: str | Path | Iterable[np.ndarray],
    reference: str | Path,
    *,
    protocol: str | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    cache: bool = True,
    fid_infinity: bool = False,
    ignore_sample_statistics: bool = False,
    progress: Progress | None = None,
) -> Result | None:
    """FID, sFID, IS, precision and recall of samples against a reference.

    samples, reference: an .npz, a folder or a zip of images; the reference may also be a registered name or
    hold stored statistics. Samples may also be uint8 (n, H, W, 3) arrays, one after another, as from a
    training loop: they are read once and never kept. protocol: None takes the reference's own, "adm" where it
    names none. fid_infinity: also extrapolate FID to infinitely many samples. Under torchrun the images are
    shared out and the Result is rank 0's; other ranks get None. The order is samples, reference: ADM's
    program takes them the other way round.
    Raises DitEvalError for whatever is wrong with the input.
    """
    began = time.monotonic()
    images = _open_samples(samples, ignore_sample_statistics)
    target = open_reference(reference, offline=offline)
    extraction = load_extraction(
        protocol or target.protocol,
        inception=inception,
        device=device,
        batch_size=batch_size,
        offline=offline,
        cache=cache,
    )
    require_same_protocol(target, extraction.protocol.name, extraction.fingerprint)
    _require_one_process(images, extraction)
    for name, side in (("samples", images), ("reference", target.images)):
        if side is not None and not side.once:
            require_points(name, len(side), extraction.protocol.neighbour)
    labels = {"precision": images.labels(), "recall": target.images.labels() if target.images else None}
    with process_group(extraction.rank):
        ours, about_samples = extraction.extract(images, "samples", progress)
        theirs, about_reference = None, {}
        if target.images is not None:
            theirs, about_reference = extraction.extract(target.images, "reference", progress)
    if ours is None:
        return None
    numbers = _numbers(ours, target, theirs, labels, extraction, fid_infinity)
    drawn, strangers = _drawn(images, about_samples["digest"])
    circumstances = {
        "protocol": extraction.describe(),
        "samples": {"path": str(images.path), **about_samples, **drawn},
        "reference": _describe_reference(reference, target, about_reference),
    }
    return Result(
        metrics=numbers.metrics,
        intervals=numbers.intervals(),
        measured_against=numbers.against,
        missing=numbers.absent,
        **circumstances,
        fingerprint=fingerprint(**circumstances),
        environment=_environment(extraction, time.monotonic() - began),
        warnings=(*_doubts(len(images), extraction.extractor.dimensions[0], numbers.metrics), *strangers),
        influence=numbers.influence,
        classes=numbers.classes,
    )


def make_reference(
    batch: str | Path,
    out: str | Path,
    *,
    protocol: str | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a reference: mu, sigma, mu_s, sigma_s, arr_0, arr_1 if there are labels, and provenance.

    Raises DitEvalError for whatever is wrong with the input; nothing half-written is left.
    """
    images = open_images(Path(batch))
    extraction = load_extraction(
        protocol, inception=inception, device=device, batch_size=batch_size, offline=offline
    )
    with process_group(extraction.rank):
        statistics, about = extraction.extract(images, "reference", progress)
    if statistics is not None:
        provenance = {
            "made_by": f"dit-eval {__version__}",
            "batch": Path(batch).name,
            **{key: about[key] for key in ("n", "size", "digest")},
            "protocol": extraction.describe(),
        }
        write_reference(Path(out), images, statistics, provenance)
    return Path(out)


def _open_samples(samples: str | Path | Iterable[np.ndarray], ignore_statistics: bool) -> Images:
    if not isinstance(samples, (str, Path)):
        return ArrayImages(samples)
    path = Path(samples)
    images = open_images(path)
    if not ignore_statistics and has_statistics(path):
        raise UsageError(
            f"{path} carries stored statistics (mu, sigma), as references do, and the order is SAMPLES "
            "REFERENCE. If these are the samples, --ignore-sample-statistics computes them from the images."
        )
    return images


def _require_one_process(images: Images, extraction: FeatureExtraction) -> None:
    if images.once and extraction.rank.count > 1:
        raise UsageError(
            f"arrays are evaluated by one process, and there are {extraction.rank.count}. "
            "Write them to an .npz, which all of them can read."
        )


def _drawn(images: Images, digest: str) -> tuple[dict[str, Any], list[str]]:
    """How the samples were drawn, at what cost and speed, where their record says; and doubts about it."""
    record = read_record(images.path)
    if not record:
        return {}, []
    if record.get("digest") != digest:
        path = images.path.with_suffix(".json")
        return {}, [f"{path} describes other images than {images.path}; the model behind them is not known."]
    return {key: record[key] for key in ("plan", "macs", "speed") if key in record}, []


@dataclass(frozen=True)
class _Numbers:
    """By metric: value, what it was measured against, its images' influences; and reasons for absence."""

    metrics: dict[str, float] = field(default_factory=dict)
    against: dict[str, str] = field(default_factory=dict)
    influence: dict[str, np.ndarray] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    classes: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, name: str, value: float, against: str, influence: np.ndarray | None = None) -> None:
        self.metrics[name], self.against[name] = value, against
        if influence is not None:
            self.influence[name] = influence.astype(np.float32)

    def intervals(self) -> dict[str, dict[str, float]]:
        return {name: asdict(interval(self.metrics[name], each)) for name, each in self.influence.items()}


def _numbers(
    ours: FeatureStats,
    target: Reference,
    theirs: FeatureStats | None,
    labels: Mapping[str, np.ndarray | None],
    extraction: FeatureExtraction,
    fid_infinity: bool,
) -> _Numbers:
    """labels: the classes of the images of which precision and recall are shares, where they are known."""
    numbers = _Numbers()
    for name, mine, images, stored, computed in (
        ("fid", ours.pool, ours.features, target.pool, theirs and theirs.pool),
        ("sfid", ours.spatial, ours.spatial_features, target.spatial, theirs and theirs.spatial),
    ):
        other = stored or (computed.gaussian() if computed else None)
        if other is None:
            numbers.absent[name] = "the reference has neither these statistics nor images"
            continue
        gaussian = mine.gaussian()
        against = _stored(target) if stored else f"statistics of {_count(theirs)} reference images"
        value = _distance(target, gaussian, other)
        numbers.add(name, value, against, frechet_influence(images, gaussian, other))
    if fid_infinity:
        _extrapolate(numbers, ours, target.pool or (theirs and theirs.pool.gaussian()))

    chunk = ours.score.chunk
    numbers.add(
        "inception_score",
        ours.score.in_file_order(),
        f"itself, chunks of {chunk:,} in order",
        score_influence(ours.probabilities, chunk),
    )
    numbers.add("inception_score_order_free", ours.score.order_free(), "itself, all images as one chunk")

    if theirs is None:
        for name in ("precision", "recall"):
            numbers.absent[name] = "the reference has statistics only; it takes reference images"
        return numbers
    sides = theirs.features, ours.features
    device, neighbour = str(extraction.extractor.device), extraction.protocol.neighbour
    exact = precision_recall(*sides, k=neighbour, device=device)
    float16 = precision_recall(*sides, k=neighbour, device=device, float16=True)
    against = f"{_count(theirs)} reference images, exact"
    numbers.add("precision", exact.precision, against, exact.precision_influence())
    numbers.add("recall", exact.recall, against, exact.recall_influence())
    numbers.add("precision_float16", float16.precision, "the same, in float16 as on a GPU")
    numbers.add("recall_float16", float16.recall, "the same, in float16 as on a GPU")
    for name, inside in (("precision", exact.samples_inside), ("recall", exact.reference_inside)):
        classes = labels[name]
        if classes is not None:
            numbers.classes[name] = inside_by_class(inside, classes)
    return numbers


def _extrapolate(numbers: _Numbers, ours: FeatureStats, theirs: Gaussian | None) -> None:
    """Add FID∞, or the reason for its absence."""
    if theirs is None:
        numbers.absent["fid_infinity"] = numbers.absent["fid"]
        return
    try:
        sizes = subset_sizes(*ours.features.shape)
    except StatisticsError as error:
        numbers.absent["fid_infinity"] = str(error)
        return
    value, influence = extrapolated_distance(ours.features, theirs, numbers.influence["fid"])
    numbers.add("fid_infinity", value, f"the same, {len(sizes)} subsets of {sizes[0]:,} and more", influence)


def _distance(target: Reference, ours: Gaussian, theirs: Gaussian) -> float:
    try:
        return frechet_distance(ours, theirs)
    except StatisticsError as error:
        raise StatisticsError(f"{target.path}: {error}") from None


def _stored(target: Reference) -> str:
    n = target.provenance.get("n")
    return f"stored statistics of {n:,} images" if n else "stored statistics (n not recorded in the file)"


def _count(statistics: FeatureStats | None) -> str:
    return f"{statistics.n:,}" if statistics else "no"


def _describe_reference(name: str | Path, target: Reference, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(name),
        "statistics": "stored" if target.pool else "computed",
        "statistics_sha256": target.statistics_digest(),
        "provenance": target.provenance,
        **about,
    }


def _environment(extraction: FeatureExtraction, seconds: float) -> dict[str, Any]:
    device = extraction.extractor.device
    return {
        "dit_eval": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torch-fidelity", "numpy", "scipy", "pillow")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": extraction.rank.count,
        "batch_size": extraction.batch_size,
        "seconds": round(seconds, 3),
    }


def _doubts(n: int, dimension: int, metrics: dict[str, float]) -> list[str]:
    """What a reader of the numbers must know."""
    doubts = []
    if n < dimension:
        doubts.append(
            f"{n:,} samples are fewer than {dimension:,} features: the covariance is rank-deficient and FID "
            "is not comparable with any other number."
        )
    in_order, free = metrics["inception_score"], metrics["inception_score_order_free"]
    if free > _SORTED * in_order:
        doubts.append(
            f"the file looks sorted by class: its inception score is {in_order:.2f} in file order and "
            f"{free:.2f} over all images. ADM's number depends on the order; shuffle the file."
        )
    return doubts
