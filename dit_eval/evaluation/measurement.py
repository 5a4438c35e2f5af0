"""From the features of samples and a reference to a Result: the metrics and what is recorded beside them."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from dit_eval.evaluation.extraction import FeatureExtraction
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.metric_table import POINTS, MetricInputs, compute_metrics
from dit_eval.evaluation.prepared_reference import PreparedReference
from dit_eval.features.protocols import EncoderProtocol
from dit_eval.metrics.inception_score import SORTED_SCORE_RATIO
from dit_eval.metrics.precision_recall import require_points
from dit_eval.results.comparability import result_fingerprint
from dit_eval.results.metric_names import bounds
from dit_eval.results.result import Result
from dit_eval.runtime.cores import all_cores
from dit_eval.version import __version__


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The features of the samples and what is known of them.

    section: that of the samples in a Result; labels: (N,) integers, None where they are unknown; notes,
    record_warnings: sentences about the images and about their record.
    """

    stats: FeatureStats
    section: Mapping[str, Any]
    labels: np.ndarray | None = None
    label: str | None = None
    notes: tuple[str, ...] = field(default=())
    record_warnings: tuple[str, ...] = field(default=())


def measure(
    samples: SampleSet,
    reference: PreparedReference,
    extraction: FeatureExtraction,
    metrics: Collection[str],
    *,
    intervals: bool,
    seconds: float,
) -> Result:
    """The Result of samples against a reference; seconds: since the beginning of the evaluation.

    To be called on rank 0 while the other ranks wait or have finished. Raises StatisticsError.
    """
    if any(name in metrics for name in POINTS):
        require_points("samples", samples.stats.n, extraction.protocol.k)
    inputs = MetricInputs(
        samples=samples.stats,
        reference=reference,
        sample_labels=samples.labels,
        k=extraction.protocol.k,
        device=str(extraction.extractor.device),
        intervals=intervals,
    )
    with all_cores() if extraction.rank.count > 1 else nullcontext():
        measurements, missing = compute_metrics(inputs, metrics)
    values = {name: measurement.value for name, measurement in measurements.items()}
    influence = {
        name: measurement.influence.astype(np.float32)
        for name, measurement in measurements.items()
        if measurement.influence is not None
    }
    metadata: dict[str, Any] = {
        "protocol": extraction.protocol_record(),
        "samples": dict(samples.section),
        "reference": reference.section(),
    }
    return Result(
        label=samples.label,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=values,
        intervals={
            name: asdict(ends)
            for name, entry in measurements.items()
            if (ends := entry.interval(bounds(name)))
        },
        measured_against={name: entry.measured_against for name, entry in measurements.items()},
        missing=missing,
        **metadata,
        fingerprint=result_fingerprint(**metadata),
        environment=_environment(extraction, seconds),
        warnings=(
            *samples.notes,
            *reference.reference.notes,
            *_warnings(samples.stats.n, reference, extraction.extractor.dimensions[0], values),
            *samples.record_warnings,
            *dict.fromkeys(extraction.warnings),
        ),
        influence=influence,
        classes={name: entry.by_class for name, entry in measurements.items() if entry.by_class},
    )


def _environment(extraction: FeatureExtraction, seconds: float) -> dict[str, Any]:
    device = extraction.extractor.device
    packages = ["torch", "torch-fidelity", "numpy", "scipy", "pillow"]
    if isinstance(extraction.protocol, EncoderProtocol):
        packages.append("timm")
    return {
        "dit_eval": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": extraction.rank.count,
        "batch_size": extraction.batch_size,
        "seconds": round(seconds, 3),
    }


def _warnings(
    n: int, reference: PreparedReference, dimension: int, metrics: Mapping[str, float]
) -> list[str]:
    """What a reader of the numbers must know."""
    warnings = []
    if n <= dimension:
        warnings.append(
            f"{n:,} samples for {dimension:,} features: the covariance is rank-deficient, so FID and sFID "
            "have a bias that depends on n; compare them only with results of the same number of images."
        )
    reference_n = reference.images_of_statistics()
    if reference_n is not None and reference_n <= dimension:
        warnings.append(
            f"the reference's statistics are of {reference_n:,} images for {dimension:,} features: their "
            "covariance is rank-deficient, so FID and sFID are far from those against a large reference."
        )
    in_order, order_free = (metrics.get(f"inception_score{suffix}") for suffix in ("", "_order_free"))
    if in_order and order_free and order_free > SORTED_SCORE_RATIO * in_order:
        warnings.append(
            f"the file looks sorted by class: its inception score is {in_order:.2f} in file order and "
            f"{order_free:.2f} over all images. ADM's number depends on the order; shuffle the file."
        )
    return warnings
