"""Evaluation in a running program: images are added batch by batch, on any number of ranks."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_eval.errors import BatchError, StatisticsError, UsageError
from dit_eval.evaluation.extraction import ExtractionProgress, load_extractions
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.image_arrays import PixelHash, as_uint8
from dit_eval.evaluation.measurement import SampleSet, measure
from dit_eval.evaluation.metric_table import DEFAULT, needs_reference_images, require_metrics
from dit_eval.evaluation.prepared_reference import (
    PreparedReference,
    choose_protocols,
    pair_with_protocols,
    prepare_reference,
)
from dit_eval.evaluation.references import open_reference
from dit_eval.features.network import Activations
from dit_eval.io.crops import ImageOptions
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import Rank, failing_together, from_rank0, gather_to_rank0, process_group
from dit_eval.runtime.rounding import MAX_CLIPPED, Quantizer
from dit_eval.runtime.transfer import HostCopy, host_array

_NO_LABEL = -1


class Evaluator:
    """Metrics of images that a running program makes, such as a training loop.

    The network and all that depends on the reference alone are loaded and computed once. Nothing is written
    but temporary files, and neither random states nor precision settings nor autocast of the program change.

    Under torch.distributed every rank makes the same calls but `update`, which takes the rank's own images:
    image j of rank r counts as image j·(number of ranks) + r, the order of a DistributedSampler. Create the
    evaluator after the process group. An error of one rank in `compute` or in `generate` is an error on all
    ranks. A rank on which `update` has raised an error must still call `compute`, or end.

    >>> evaluator = dit_eval.Evaluator("imagenet-256")          # before the training loop
    >>> for images in batches:                                  # floats (N, 3, H, W) in -1 … 1
    ...     evaluator.update(images, value_range=(-1, 1))
    >>> result = evaluator.compute()
    >>> logger.log(result.scalars("eval/"), step)
    >>> evaluator.reset()
    """

    def __init__(
        self,
        reference: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        *,
        protocol: str | Sequence[str] | None = None,
        inception: str | Path | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        offline: bool = False,
        cache: bool = False,
        intervals: bool = True,
        metrics: Collection[str] | None = None,
        image_options: ImageOptions | None = None,
        progress: ExtractionProgress | None = None,
    ) -> None:
        """Load the networks and prepare the references.

        reference: a file or a registered name, or several, against which the same images are measured, or a
        mapping from protocols to the reference of each; protocol, inception, device, batch_size, offline: see
        `evaluate`; cache: whether the features of reference images are kept in the cache folder; intervals:
        False computes values alone, in less time and memory; metrics: names of those to compute, None for
        ADM's five; image_options: how the images of references are read and which size all images have;
        progress: called while the features of reference images are extracted. Raises subclasses of
        DitEvalError.
        """
        start = time.monotonic()
        by_protocol = isinstance(reference, Mapping)
        if by_protocol:
            names, protocols = list(reference.values()), list(reference)
            if protocol is not None:
                raise UsageError("the mapping of references names the protocols; leave out protocol.")
        else:
            names = [reference] if isinstance(reference, (str, Path)) else list(reference or [])
            protocols = _protocol_names(protocol)
        if not names:
            raise UsageError("there is no reference; expected a file or a registered name, or several.")
        self._image_options = image_options or ImageOptions()
        opened = [
            (str(name), open_reference(name, offline=offline, options=self._image_options)) for name in names
        ]
        self.intervals, self.metrics = intervals, require_metrics(DEFAULT if metrics is None else metrics)
        self.extractions = load_extractions(
            choose_protocols(protocols, () if by_protocol else opened),
            inception=inception,
            device=str(device),
            batch_size=batch_size,
            offline=offline,
            cache=cache,
        )
        self.rank = self.extractions[0].rank
        pairs = [[each] for each in self.extractions]
        if not by_protocol:
            pairs = pair_with_protocols(opened, self.extractions)
        self._closed = False
        self._references: list[list[PreparedReference]] = [[] for _ in self.extractions]  # by protocol
        with ExitStack() as stack:
            stack.enter_context(process_group(self.rank))
            for (name, target), chosen in zip(opened, pairs, strict=True):
                images = needs_reference_images(self.metrics, target)
                prepared = prepare_reference(name, target, chosen, progress, images=images)
                for extraction, one in zip(chosen, prepared, strict=True):
                    self._references[self.extractions.index(extraction)].append(one)
            self._process_group = stack.pop_all()
        self.reset()
        self._start = start

    def update(
        self, images: Any, *, value_range: tuple[float, float] | None = None, labels: Any = None
    ) -> None:
        """Add a batch of images.

        images: an array or a tensor on any device, N×H×W×3 or N×3×H×W: uint8, or floats with their
        value_range (lowest, highest), which are rounded as in DiT's code; labels: (N,) integers, the classes
        of the images, for the counts of each class in precision. Raises BatchError.
        """
        with torch.no_grad():
            quantizer = None
            if isinstance(value_range, tuple) and len(value_range) == 2:
                quantizer = self._quantizers.setdefault(value_range, Quantizer("dit", value_range))
            pixels = as_uint8(images, value_range, quantizer)
        start = self.n * self.rank.count + self.rank.index
        self.update_at(pixels, start, labels, stride=self.rank.count)

    @property
    def n(self) -> int:
        """Number of images of this rank since the last `reset`."""
        return sum(map(len, self._positions))

    def update_at(self, images: np.ndarray | Tensor, start: int, labels: Any, *, stride: int = 1) -> None:
        """Add images, uint8 (N, H, W, 3), as images start, start + stride, … of all ranks."""
        self._require_open()
        size = (int(images.shape[1]), int(images.shape[2]))
        if self._size not in (None, size):
            raise BatchError(
                f"the images are {size[1]}×{size[0]}; expected {self._size[1]}×{self._size[0]}, which is "
                "image_size or the size of the first ones. Call reset() before images of another size."
            )
        classes = np.full(len(images), _NO_LABEL) if labels is None else _as_labels(labels, len(images))
        batch_size = self.extractions[0].batch_size
        for first in range(0, len(images), batch_size):
            block = images[first : first + batch_size]
            copy = HostCopy(host_array(block) if isinstance(block, Tensor) else block)
            outputs = [extraction.extractor.activations(block) for extraction in self.extractions]
            self._add_features(outputs, start + first * stride, stride)
            # Only what has been added is counted: the caller may go on after an error
            self._positions.append(start + stride * np.arange(first, first + len(block)))
            self._labels.append(classes[first : first + len(block)])
            self._size = size
            self._hash.update(copy)  # while a GPU computes the features

    def _add_features(self, outputs: Sequence[Activations], start: int, stride: int) -> None:
        """Add the outputs of all networks for the same images."""
        try:
            for stats, activations in zip(self._stats, outputs, strict=True):
                stats.update(activations, start, stride)
        except StatisticsError:
            if len(self._stats) > 1:
                self.reset()  # some protocols have these images and others do not
            raise

    def describe(self, section: Mapping[str, Any], label: str | None = None) -> None:
        """What the Result records of the images until the next `reset`: plan, cost and label."""
        self._section, self._label = section, label

    def compute(self) -> Result:
        """The Result of all images since the last `reset`, on every rank; more images may follow.

        Raises StatisticsError for too few images, BatchError if there are none or those of the ranks do not
        make one batch, UsageError for several references or protocols: see `compute_all`. Other ranks than
        that with the error raise RankError.
        """
        if sum(map(len, self._references)) > 1:
            raise UsageError(
                "the Evaluator has several references or protocols; compute_all() gives a Result for each."
            )
        return self.compute_all()[0]

    def compute_all(self) -> list[Result]:
        """The Results of all images, one for each protocol and reference, in this order."""
        self._require_open()
        gathered, stats = self._gather()
        results: list[Result] = []

        def measure_as_json() -> str:
            results.extend(self.measure(self._sample_sets(stats, gathered)))
            return json.dumps([result.to_json() for result in results] if self.rank.count > 1 else [])

        received = from_rank0(self.rank, measure_as_json)
        return results or [Result.from_json(text) for text in json.loads(received)]

    def measure(self, samples: Sequence[SampleSet]) -> list[Result]:
        """The Results of samples whose features are known, by protocol and reference; on rank 0.

        samples: the same images by each protocol.
        """
        seconds = time.monotonic() - self._start
        return [
            measure(sample_set, one, extraction, self.metrics, intervals=self.intervals, seconds=seconds)
            for extraction, sample_set, references in zip(
                self.extractions, samples, self._references, strict=True
            )
            for one in references
        ]

    def reset(self, expected: int | None = None) -> None:
        """Forget all images. expected: the number of those to come, where it is known; see `PixelHash`."""
        self._require_open()
        self._start = time.monotonic()
        side = self._image_options.image_size
        self._size: tuple[int, int] | None = None if side is None else (side, side)
        self._quantizers: dict[tuple[float, float], Quantizer] = {}
        self._positions: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._hash = PixelHash(expected if self.rank.count == 1 else None)
        self._stats = [each.new_stats(expected or 0, intervals=self.intervals) for each in self.extractions]
        self.describe({})

    def close(self) -> None:
        """Release the network, the features and the memory of the device."""
        if not self._closed:
            self._closed = True
            self._references.clear()
            self._positions, self._labels = [], []
            del self._stats
            self._process_group.close()
            for extraction in self.extractions:
                extraction.extractor.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("the Evaluator is closed; create another one.")
        rank = Rank.from_environment()
        if (rank.index, rank.count) != (self.rank.index, self.rank.count):
            raise UsageError(
                f"there are {rank.count} ranks now, and there were {self.rank.count} when the "
                "Evaluator was created. Create it after the process group."
            )

    def _gather(self) -> tuple[list[dict[str, np.ndarray]], list[FeatureStats]]:
        """On rank 0 what every rank knows of its images, in rank order, and all features by protocol."""
        rank, none = self.rank, [np.empty(0, np.int64)]
        try:
            with failing_together(rank):
                for stats in self._stats:
                    stats.finish()
                if not all(quantizer.all_finite() for quantizer in self._quantizers.values()):
                    raise BatchError("the images contain NaN or infinite values; the model has diverged.")
        except Exception:
            self.reset()  # what has arrived of the failed images is not known
            raise
        own = {
            "positions": np.concatenate([*none, *self._positions]),
            "labels": np.concatenate([*none, *self._labels]),
            "size": np.array([self._size] if self._size else [], np.int64).reshape(-1, 2),
            "digest": np.frombuffer(bytes.fromhex(self._hash.hexdigest()), np.uint8)[None],
        }
        if rank.count == 1:
            return [own], self._stats
        with failing_together(rank):
            joined = [stats.copy() if rank.index == 0 else stats for stats in self._stats]
        gathered = gather_to_rank0(rank, own)
        for extraction, stats in zip(self.extractions, joined, strict=True):
            with failing_together(rank):  # rank 0 adds the features once all have been received
                extraction.add_ranks(stats)
        return gathered, joined

    def _sample_sets(
        self, joined: list[FeatureStats], gathered: list[dict[str, np.ndarray]]
    ) -> list[SampleSet]:
        """The images of all ranks in the order of their positions, by protocol."""
        positions, labels, sizes, digests = (
            np.concatenate([share[name] for share in gathered])
            for name in ("positions", "labels", "size", "digest")
        )
        if not len(positions):
            raise BatchError("there are no images; call update() before compute().")
        if len(found := {tuple(map(int, size)) for size in sizes}) > 1:
            listed = ", ".join(f"{height}×{width}" for height, width in sorted(found))
            raise BatchError(f"the images of the ranks have several sizes ({listed}); a batch has one size.")
        order = np.argsort(positions, kind="stable")
        if (order[:-1] > order[1:]).any():
            for stats in joined:
                stats.reorder(order)
            if len(gathered) == 1:  # `stats` are kept for further images
                self._positions, self._labels = [positions[order]], [labels[order]]
            positions, labels = positions[order], labels[order]
        self._require_chunks(positions)
        digest = digests[0].tobytes() if len(digests) == 1 else hashlib.sha256(digests.tobytes()).digest()
        known = {
            "path": "arrays",
            "n": joined[0].n,
            "size": list(found.pop()),
            "digest": digest.hex(),
            "cached": False,
        }
        return [
            SampleSet(
                stats=stats,
                section={**known, **self._section},
                labels=None if (labels == _NO_LABEL).any() else labels,
                label=self._label,
                notes=tuple(self._clipping()),
            )
            for stats in joined
        ]

    def _clipping(self) -> Iterator[str]:
        """Warnings of values out of their range, on this rank."""
        for value_range, quantizer in self._quantizers.items():
            if (share := quantizer.clipped_share()) > MAX_CLIPPED:
                yield (
                    f"{share:.1%} of the values were out of the value_range {value_range} and have been "
                    "clipped; check the range."
                )

    def _require_chunks(self, positions: np.ndarray) -> None:
        """Raise BatchError if the chunks of the inception score would be those of other images."""
        chunks = {extraction.protocol.inception_score_chunk for extraction in self.extractions}
        for chunk in chunks if "inception_score" in self.metrics else ():
            if (positions // chunk != np.arange(len(positions)) // chunk).any():
                raise BatchError(
                    "the ranks have unequal numbers of images, or images are missing in between, so the "
                    f"chunks of {chunk:,} images of the inception score are not known. Give every rank as "
                    "many images, or leave out this metric."
                )


def _protocol_names(protocol: object) -> list[str]:
    """One name or several as a list without repetitions, empty for None. Raises UsageError for no name."""
    names = [] if protocol is None else [protocol] if isinstance(protocol, str) else protocol
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"protocol is {protocol!r}; expected the name of a protocol, or several.")
    return list(dict.fromkeys(names))


def _as_labels(labels: Any, n: int) -> np.ndarray:
    classes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if classes.shape != (n,) or classes.dtype.kind not in "iu":
        raise BatchError(f"labels are {classes.dtype} {classes.shape}; expected {n} integers, one per image.")
    return classes.astype(np.int64)
