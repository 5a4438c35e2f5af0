"""Evaluation from beginning to end: image batches → features → statistics → metrics → Result."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import UsageError
from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction, load_extraction
from dit_eval.evaluation.metric_table import DEFAULT, METRIC_FUNCTIONS, MetricInputs, compute_metrics
from dit_eval.evaluation.references import (
    Reference,
    has_statistics,
    open_reference,
    require_same_protocol,
    write_reference,
)
from dit_eval.io.batch_record import read_record
from dit_eval.io.batches import ArrayImages, Images, open_images
from dit_eval.metrics.inception_score import SORTED_SCORE_RATIO
from dit_eval.metrics.precision_recall import require_points
from dit_eval.results.comparability import result_fingerprint
from dit_eval.results.result import Result
from dit_eval.runtime.cores import all_cores
from dit_eval.runtime.distributed import process_group
from dit_eval.version import __version__


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
    label: str | None = None,
    progress: ExtractionProgress | None = None,
) -> Result | None:
    """FID, sFID, inception score, precision and recall of samples against a reference.

    samples, reference: an .npz, a folder or a zip of images; the reference may also be a registered name or
    hold stored statistics. Samples may also be uint8 (n, H, W, 3) arrays, one after another, as from a
    training loop: they are read once and never stored. protocol: None takes the reference's own, or "adm" if
    it names none. fid_infinity: also extrapolate FID to infinitely many samples. label: the result's name in
    tables; None takes that in the record of the samples. Under torchrun the images are shared among the ranks
    and the Result is rank 0's; other ranks get None. The order of the arguments is samples, reference: ADM's
    program takes them the other way round.
    Raises DitEvalError for whatever is wrong with the input.

    >>> result = dit_eval.evaluate("batch.npz", "digits")
    >>> result["fid"]
    56...
    """
    start_time = time.monotonic()
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
    protocol_record = extraction.protocol_record()
    require_same_protocol(target, protocol_record)
    _require_one_process(images, extraction)
    for name, stream in (("samples", images), ("reference", target.images)):
        if stream is not None and not stream.once:
            require_points(name, len(stream), extraction.protocol.k)
    labels = images.labels(), target.images.labels() if target.images else None
    with process_group(extraction.rank):
        stats, sample_record = extraction.extract(images, "samples", progress)
        reference_stats, reference_record = None, {}
        if target.images is not None:
            reference_stats, reference_record = extraction.extract(target.images, "reference", progress)
    if stats is None:
        return None
    inputs = MetricInputs(
        samples=stats,
        reference=target,
        reference_stats=reference_stats,
        sample_labels=labels[0],
        reference_labels=labels[1],
        k=extraction.protocol.k,
        device=str(extraction.extractor.device),
    )
    with all_cores() if extraction.rank.count > 1 else nullcontext():  # the other ranks have finished
        measurements, missing = compute_metrics(inputs, METRIC_FUNCTIONS if fid_infinity else DEFAULT)
    metrics = {name: measurement.value for name, measurement in measurements.items()}
    influence = {
        name: measurement.influence.astype(np.float32)
        for name, measurement in measurements.items()
        if measurement.influence is not None
    }
    generation_record, record_warnings = _generation_record(images, sample_record["digest"])
    record_label = generation_record.pop("label", None)
    metadata = {
        "protocol": protocol_record,
        "samples": {"path": str(images.path), **sample_record, **generation_record},
        "reference": _reference_section(reference, target, reference_record),
    }
    return Result(
        label=label or record_label,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=metrics,
        intervals={name: asdict(ends) for name, entry in measurements.items() if (ends := entry.interval())},
        measured_against={name: entry.measured_against for name, entry in measurements.items()},
        missing=missing,
        **metadata,
        fingerprint=result_fingerprint(**metadata),
        environment=_environment(extraction, time.monotonic() - start_time),
        warnings=(
            *images.notes,
            *target.notes,
            *_warnings(len(images), extraction.extractor.dimensions[0], metrics),
            *record_warnings,
            *dict.fromkeys(extraction.warnings),
        ),
        influence=influence,
        classes={name: entry.by_class for name, entry in measurements.items() if entry.by_class},
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
    progress: ExtractionProgress | None = None,
) -> Path:
    """Write a reference: statistics, images, labels if there are any, and provenance.

    The arrays are mu, sigma, mu_s, sigma_s, arr_0 and arr_1. The parameters are those of `evaluate`.
    Raises DitEvalError for whatever is wrong with the input; no incomplete file is left behind.

    >>> dit_eval.make_reference("batch.npz", "reference.npz", protocol="digits").name
    'reference.npz'
    """
    images = open_images(Path(batch))
    extraction = load_extraction(
        protocol, inception=inception, device=device, batch_size=batch_size, offline=offline
    )
    with process_group(extraction.rank):
        stats, record = extraction.extract(images, "reference", progress)
    if stats is not None:
        provenance = {
            "made_by": f"dit-eval {__version__}",
            "batch": Path(batch).name,
            **({"warnings": images.notes} if images.notes else {}),
            **{key: record[key] for key in ("n", "size", "digest")},
            "protocol": extraction.protocol_record(),
        }
        write_reference(Path(out), images, stats, provenance)
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


def _generation_record(images: Images, digest: str) -> tuple[dict[str, Any], list[str]]:
    """Plan, cost, speed and label of the samples, where the record beside them has them, and warnings."""
    record = read_record(images.path)
    if not record:
        return {}, []
    if record.get("digest") != digest:
        path = images.path.with_suffix(".json")
        return {}, [f"{path} describes other images than {images.path}; the model behind them is not known."]
    return {key: record[key] for key in ("plan", "macs", "speed", "label") if key in record}, []


def _reference_section(name: str | Path, target: Reference, image_record: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(name),
        "statistics": "stored" if target.pool else "computed",
        "statistics_sha256": target.statistics_digest(),
        "provenance": target.provenance,
        **image_record,
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


def _warnings(n: int, dimension: int, metrics: dict[str, float]) -> list[str]:
    """What a reader of the numbers must know."""
    warnings = []
    if n <= dimension:
        warnings.append(
            f"{n:,} samples for {dimension:,} features: the covariance is rank-deficient, so FID and sFID "
            "have a bias that depends on n; compare them only with results of the same number of images."
        )
    in_order, order_free = metrics["inception_score"], metrics["inception_score_order_free"]
    if order_free > SORTED_SCORE_RATIO * in_order:
        warnings.append(
            f"the file looks sorted by class: its inception score is {in_order:.2f} in file order and "
            f"{order_free:.2f} over all images. ADM's number depends on the order; shuffle the file."
        )
    return warnings
