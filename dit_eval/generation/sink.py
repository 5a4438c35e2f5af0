"""Sampling from a live model straight into an evaluation, without a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.decode import Decode, decode_in_chunks, require_finite
from dit_eval.generation.models import Model
from dit_eval.generation.plan import Plan
from dit_eval.runtime.distributed import StridedShard


@dataclass(frozen=True)
class SamplingProgress:
    """The progress of this process with its share of the work."""

    done: float  # images sampled by this call, including the completed fraction of the current batch
    total: int  # images that this call samples, with the batches of other processes that it has begun
    flops: float  # floating-point operations of the network so far, as counted by `dit-eval flops table`


@runtime_checkable
class ImageSink(Protocol):
    """What takes the images, such as `dit_eval.Evaluator`."""

    def reset(self, expected: int | None = None) -> None:
        """Forget all images. expected: the number of images to come."""

    def update_at(self, images: Tensor, start: int, labels: np.ndarray) -> None:
        """Add images, uint8 (N, H, W, 3), as images start, start + 1, …, of the classes `labels` (N,)."""

    def describe(self, section: Mapping[str, Any], label: str | None = None) -> None:
        """What is recorded of the images: plan and label."""


def sample_into(
    sink: ImageSink,
    batch_sampler: BatchSampler,
    decode: Decode,
    plan: Plan,
    worker: StridedShard,
    progress: Callable[[SamplingProgress], None] | None,
) -> None:
    """Sample the worker's batches of a plan and pass their images on.

    progress: its number of operations is not counted. Raises CheckpointError for samples that are not finite.
    """
    batches = [batch for batch in range(-(-plan.num // plan.batch_size)) if worker.takes(batch)]
    total, done = sum(min(plan.batch_size, plan.num - batch * plan.batch_size) for batch in batches), 0
    for batch in batches:
        start = batch * plan.batch_size
        count = min(plan.batch_size, plan.num - start)
        samples = batch_sampler.sample(plan.indices(batch), lambda _: None)[:count]
        require_finite(samples)
        sink.update_at(decode_in_chunks(decode, samples), start, batch_sampler.labels[start : start + count])
        done += count
        if progress:
            progress(SamplingProgress(done, total, 0.0))


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Within the block, the modules of a model are in evaluation mode; afterwards in their own modes."""
    parts = [getattr(model, field.name) for field in fields(model)]
    modules = [
        module
        for part in parts
        for module in (part, getattr(part, "__self__", None))  # a module, or a method of one
        if isinstance(module, nn.Module)
    ]
    modes = [(submodule, submodule.training) for module in modules for submodule in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
