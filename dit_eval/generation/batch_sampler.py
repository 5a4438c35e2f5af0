"""The sampler of a plan: model, labels, guidance, noise and sampling algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_eval.errors import ModelError, UsageError
from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel, Model, null_class
from dit_eval.generation.network import network_of
from dit_eval.generation.plan import Plan, choose_labels, takes
from dit_eval.generation.plugins import model_errors
from dit_eval.generation.seeding import generators, seeded_globally
from dit_eval.sampling.guidance import Time, guided, parse_times
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.samplers import SAMPLERS

Report = Callable[[float], None]  # called with the completed fraction of a batch


class BatchSampler:
    """Samples any images of a plan. Raises UsageError if the plan does not fit the model or the schedule.

    labels: (num,) int64, the class of every image of the plan; passes: number of images that have passed
    through the network so far, including the unconditional passes of guidance.
    """

    def __init__(self, model: Model, plan: Plan, device: torch.device) -> None:
        self.labels = choose_labels(plan.labels, num=plan.num, num_classes=model.num_classes, seed=plan.seed)
        self.passes = 0
        self._device = device
        self._sample = (
            _image_sampling(model, plan, device)
            if isinstance(model, ImageModel)
            else _step_sampling(model, plan, device, self._count_passes)
        )

    def sample(self, indices: NDArray[np.int64], report: Report) -> Tensor:
        """The images with these indices (N,): samples (N, C, h, w) float32, or images of an ImageModel.

        report: called with the completed fraction of the work, for an adaptive solver only at the end.
        """
        labels = torch.from_numpy(self.labels[indices]).to(self._device)
        samples = self._sample(indices, labels, report)
        report(1.0)
        return samples

    def _count_passes(self, images: int) -> None:
        self.passes += images


Sample = Callable[[NDArray[np.int64], Tensor, Report], Tensor]  # (indices, labels (N,), report) → samples


def _image_sampling(model: ImageModel, plan: Plan, device: torch.device) -> Sample:
    """Calls a model that samples images by itself, with its random numbers seeded."""
    settings: dict[str, Any] = {"cfg": plan.cfg, "steps": None if plan.steps is None else int(plan.steps)}
    settings = {name: value for name, value in settings.items() if value is not None}
    with_generators = takes(model.images, "generators")

    def sample(indices: NDArray[np.int64], labels: Tensor, report: Report) -> Tensor:
        given = {"generators": generators(plan.seed, indices, device)} if with_generators else {}
        with seeded_globally(plan.seed, int(indices[0]), device), model_errors("images"):
            images = model.images(labels, **given, **settings)
        _require_images(images, len(indices), model.image_size)
        return images.to(device)

    return sample


def _step_sampling(
    model: FlowModel | DiffusionModel, plan: Plan, device: torch.device, count_passes: Callable[[int], None]
) -> Sample:
    """Runs a sampling algorithm on the predictions of a network."""
    assert plan.cfg is not None
    algorithm, cfg = SAMPLERS[plan.sampler], plan.cfg
    run_options, schedule_options = algorithm.split(plan.options)
    reversed_time = isinstance(model, FlowModel) and model.noise_at == 1
    if isinstance(model, DiffusionModel):
        schedule_options["trained_betas"] = model.betas
    elif reversed_time and schedule_options["shift"] > 0:  # else the schedule refuses it
        schedule_options["shift"] = 1 / schedule_options["shift"]  # which is given in the network's time
    schedule = algorithm.schedule(plan.steps, **schedule_options)
    interval = schedule.times_between(*plan.cfg_interval) if plan.cfg_interval else None
    if plan.cfg_times:
        low, high = parse_times(plan.cfg_times)
        interval = (1 - high, 1 - low) if reversed_time else (low, high)
    noise_scale = plan.options.get("noise_scale", 1.0)
    if noise_scale != 1 and plan.sampler == "sde":
        raise UsageError(
            f"sde assumes initial noise of standard deviation 1, not {noise_scale}; choose --sampler ode."
        )
    double = plan.options.get("state") == "float64"
    network = network_of(model, model.predict, count_passes)
    guide = None if model.guide is None else network_of(model, model.guide, count_passes)

    def sample(indices: NDArray[np.int64], labels: Tensor, report: Report) -> Tensor:
        denoiser = guided(
            network,
            labels,
            null_class=null_class(model),
            scale=cfg,
            channels=3 if plan.cfg_channels == "3" else None,
            interval=interval,
            guide=guide,
        )
        done = 0

        def counted_denoiser(x: Tensor, t: Time, *ends: float) -> Tensor:
            nonlocal done
            output = denoiser(x.float(), t, *ends).to(x.dtype)
            done += 1
            if schedule.evaluations is not None:
                report(done / schedule.evaluations)
            return output

        noise = ImageNoise(plan.seed, torch.from_numpy(indices).to(device))
        latents = noise.latents((len(indices), *model.shape))
        if noise_scale != 1:
            latents = noise_scale * latents
        state = latents.double() if double else latents
        return algorithm.run(counted_denoiser, state, schedule, noise, **run_options).float()

    return sample


def _require_images(images: object, count: int, size: int) -> None:
    """Raise ModelError unless images are (count, 3 or 1, size, size) or (count, size, size, 3)."""
    shape = tuple(getattr(images, "shape", ()))
    if not isinstance(images, Tensor) or shape not in (
        (count, 3, size, size),
        (count, 1, size, size),
        (count, size, size, 3),
    ):
        found = shape if isinstance(images, Tensor) else type(images).__name__
        raise ModelError(
            f"images returned {found} for {count} labels; expected a tensor "
            f"({count}, 3 or 1, {size}, {size}), or ({count}, {size}, {size}, 3) of uint8."
        )
