"""Evaluation of files or arrays in one call, and references made from images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np

from dit_eval.errors import BatchError, UsageError
from dit_eval.evaluation.evaluator import Evaluator
from dit_eval.evaluation.extraction import ExtractionProgress, extract, load_extraction
from dit_eval.evaluation.measurement import SampleSet
from dit_eval.evaluation.references import has_statistics, write_reference
from dit_eval.io.addresses import asset_at, is_address, named_by_address
from dit_eval.io.assets import fetch
from dit_eval.io.batch_record import read_record
from dit_eval.io.batches import Images, open_images
from dit_eval.io.crops import ImageOptions
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import process_group
from dit_eval.version import __version__


class _Options(TypedDict, total=False):
    inception: str | Path | None
    device: str
    batch_size: int
    offline: bool
    cache: bool
    metrics: Collection[str] | None
    ignore_sample_statistics: bool
    image_size: int | None
    crop: str | None
    key: str
    label: str | None
    progress: ExtractionProgress | None


@overload
def evaluate(
    samples: str | Path | Iterable[np.ndarray],
    reference: str | Path,
    *,
    protocol: str | None = None,
    **options: Unpack[_Options],
) -> Result | None: ...
@overload
def evaluate(
    samples: str | Path | Iterable[np.ndarray],
    reference: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    protocol: str | Sequence[str] | None = None,
    **options: Unpack[_Options],
) -> list[Result] | None: ...
@overload
def evaluate(
    samples: str | Path | Iterable[np.ndarray],
    reference: str | Path,
    *,
    protocol: list[str] | tuple[str, ...],
    **options: Unpack[_Options],
) -> list[Result] | None: ...
def evaluate(
    samples: str | Path | Iterable[np.ndarray],
    reference: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    protocol: str | Sequence[str] | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    cache: bool = True,
    metrics: Collection[str] | None = None,
    ignore_sample_statistics: bool = False,
    image_size: int | None = None,
    crop: str | None = None,
    key: str = "arr_0",
    label: str | None = None,
    progress: ExtractionProgress | None = None,
) -> Result | list[Result] | None:
    """FID, sFID, inception score, precision and recall of samples against a reference.

    samples, reference: an .npz, an .npy, a folder or a zip of images, or the address of an .npz (https:// or
    hf://); the reference may also be a registered name or hold stored statistics. Samples may also be uint8
    arrays N×H×W×3, one after another, as from a training loop: they are read once and never stored; see
    `Evaluator`. Several references, or a mapping from protocols to the reference of each, give a list of
    Results, for which the samples are read once. protocol: None takes the reference's own, or "adm" if it
    names none; a sequence of several gives a list of Results, by protocol and reference: a reference is
    measured by the protocol that it names, else by all, or by those with as many features as its stored
    statistics have. All networks are then in memory at once. metrics: names of those to compute, None for
    the five. image_size, crop, key: how the images of both are read, see `io.crops.ImageOptions`. label: the
    result's name in tables; None takes that in the record of the samples. Under torchrun the images are
    shared among the ranks and the Result is rank 0's; other ranks get None. The order of the arguments is
    samples, reference: ADM's program takes them the other way round.
    Raises DitEvalError for whatever is wrong with the input.

    >>> result = dit_eval.evaluate("batch.npz", "digits")
    >>> result["fid"]
    56...
    """
    image_options = ImageOptions(image_size=image_size, crop=crop, key=key)
    images = _open_samples(samples, ignore_sample_statistics, image_options, offline)
    with Evaluator(
        reference,
        protocol=protocol,
        inception=inception,
        device=device,
        batch_size=batch_size,
        offline=offline,
        cache=cache,
        metrics=metrics,
        image_options=image_options,
        progress=progress,
    ) as evaluator:
        if isinstance(images, Images):
            results = _evaluate_file(evaluator, str(samples), images, label, progress)
        else:
            results = _evaluate_arrays(evaluator, images, label, progress)
        if evaluator.rank.index > 0:
            return None
    one = isinstance(reference, (str, Path)) and (protocol is None or isinstance(protocol, str))
    return results[0] if one else results


def make_reference(
    batch: str | Path,
    out: str | Path,
    *,
    protocol: str | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    image_size: int | None = None,
    crop: str | None = None,
    key: str = "arr_0",
    progress: ExtractionProgress | None = None,
) -> Path:
    """Write a reference: statistics, images, labels if there are any, and provenance.

    The arrays are mu, sigma, arr_0 and arr_1 and, of a network with spatial features, mu_s and sigma_s; the
    provenance holds the warnings about the images. The parameters are those of `evaluate`.
    Raises DitEvalError for whatever is wrong with the input; no incomplete file is left behind.

    >>> dit_eval.make_reference("batch.npz", "reference.npz", protocol="digits").name
    'reference.npz'
    """
    images = open_images(Path(batch), ImageOptions(image_size=image_size, crop=crop, key=key))
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
            **{name: record[name] for name in ("n", "size", "crop", "digest") if name in record},
            "protocol": extraction.protocol_record(),
        }
        write_reference(Path(out), images, stats, provenance)
    return Path(out)


def _open_samples(
    samples: str | Path | Iterable[np.ndarray],
    ignore_statistics: bool,
    image_options: ImageOptions,
    offline: bool,
) -> Images | Iterable[np.ndarray]:
    if not isinstance(samples, (str, Path)):
        if hasattr(samples, "__array__"):
            return [samples]  # type: ignore[list-item]
        if not isinstance(samples, Iterable):
            kind = "None" if samples is None else f"of type {type(samples).__name__}"
            raise BatchError(f"samples are {kind}; expected a path, or uint8 arrays N×H×W×3.")
        return samples
    path = Path(samples)
    if is_address(samples):
        path = fetch(asset_at(str(samples), "reference_stats"), offline=offline)
    with named_by_address(samples, path):
        images = open_images(path, image_options)
        if not ignore_statistics and has_statistics(path):
            raise UsageError(
                f"{path} carries stored statistics (mu, sigma), as references do, and the order is SAMPLES "
                "REFERENCE. If these are the samples, --ignore-sample-statistics computes them from the "
                "images."
            )
    return images


def _evaluate_file(
    evaluator: Evaluator, path: str, images: Images, label: str | None, progress: ExtractionProgress | None
) -> list[Result]:
    """The Results on rank 0; an empty list on other ranks. path: as the user gave it."""
    with named_by_address(path, images.path):
        labels = images.labels()
        measured = extract(evaluator.extractions, images, "samples", progress)
    if evaluator.rank.index > 0:
        return []
    record, record_warnings = _generation_record(images, measured[0][1]["digest"])
    record_label = record.pop("label", None)
    samples = [
        SampleSet(
            stats=stats,
            section={"path": path, **section, **record},
            labels=labels,
            label=label or record_label,
            notes=images.notes,
            record_warnings=tuple(record_warnings),
        )
        for stats, section in measured
        if stats is not None  # always, on this rank
    ]
    return evaluator.measure(samples)


def _evaluate_arrays(
    evaluator: Evaluator, arrays: Iterable[np.ndarray], label: str | None, progress: ExtractionProgress | None
) -> list[Result]:
    if isinstance(arrays, (list, tuple)):  # their number is known, so their digest is that of an npz
        evaluator.reset(expected=sum(len(array) for array in arrays if hasattr(array, "__len__")))
    evaluator.describe({}, label)
    for array in arrays:
        evaluator.update(array)
        if progress:
            progress("samples", evaluator.n, evaluator.n)
    return evaluator.compute_all()


def _generation_record(images: Images, digest: str) -> tuple[dict[str, Any], list[str]]:
    """Plan, cost, speed and label of the samples, where the record beside them has them, and warnings."""
    record = read_record(images.path)
    if not record:
        return {}, []
    if record.get("digest") != digest:
        path = images.path.with_suffix(".json")
        return {}, [f"{path} describes other images than {images.path}; the model behind them is not known."]
    kept = ("plan", "macs", "passes_per_image", "speed", "label")
    return {key: record[key] for key in kept if key in record}, []
