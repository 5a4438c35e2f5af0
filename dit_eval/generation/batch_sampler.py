"""The sampler of a plan: model, labels, guidance, noise and sampling algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_eval.dit import DiT
from dit_eval.errors import ModelError
from dit_eval.generation.function_network import FunctionNetwork, ReversedTime
from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel, Model, null_class
from dit_eval.generation.network import AutocastNetwork
from dit_eval.generation.plan import Plan, choose_labels, takes
from dit_eval.generation.plugins import model_errors
from dit_eval.generation.seeding import generators, seeded_globally
from dit_eval.sampling.guidance import Network, Predict, guided
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.samplers import SAMPLERS

Report = Callable[[float], None]  # called with the completed fraction of a batch


class BatchSampler:
    """Samples any images of a plan. Raises UsageError if the plan does not fit the model or the schedule.

    labels: (num,) int64, the class of every image of the plan; passes: number of images that have passed
    through the network so far, including the unconditional passes of guidance.
    """

    def __init__(self, model: Model, plan: Plan, device: torch.device) -> None:
        self.device, self.passes = device, 0
        self.labels = choose_labels(plan.labels, num=plan.num, num_classes=model.num_classes, seed=plan.seed)
        self._plan = plan
        self._sample = (
            _ImageSampling(model, plan, device)
            if isinstance(model, ImageModel)
            else _StepSampling(model, plan, device)
        )

    def sample(self, indices: NDArray[np.int64], report: Report) -> Tensor:
        """The samples of the images with these indices (N,): (N, C, h, w) float32, or images of an
        ImageModel.

        report: called with the completed fraction of the work.
        """
        labels = torch.from_numpy(self.labels[indices]).to(self.device)

        def count_passes(images: int) -> None:
            self.passes += images

        return self._sample(indices, labels, report, count_passes)


class _ImageSampling:
    """Calls a model that samples images by itself, with its random numbers seeded."""

    def __init__(self, model: ImageModel, plan: Plan, device: torch.device) -> None:
        self._model, self._seed, self._device = model, plan.seed, device
        settings = {"cfg": plan.cfg, "steps": None if plan.steps is None else int(plan.steps)}
        self._settings = {name: value for name, value in settings.items() if value is not None}

    def __call__(
        self, indices: NDArray[np.int64], labels: Tensor, report: Report, count_passes: Callable[[int], None]
    ) -> Tensor:
        settings: dict[str, Any] = dict(self._settings)
        if takes(self._model.images, "generators"):
            settings["generators"] = generators(self._seed, indices, self._device)
        with seeded_globally(self._seed, int(indices[0]), self._device), model_errors("images"):
            images = self._model.images(labels, **settings)
        size = self._model.image_size
        _require_images(images, len(indices), size)
        report(1.0)
        return images


class _StepSampling:
    """Runs a sampling algorithm on the predictions of a network."""

    def __init__(self, model: FlowModel | DiffusionModel, plan: Plan, device: torch.device) -> None:
        self._model, self._plan, self._device = model, plan, device
        self._sampler = SAMPLERS[plan.sampler]
        self._run_options, schedule_options = self._sampler.split(plan.options)
        if isinstance(model, DiffusionModel):
            schedule_options["trained_betas"] = model.betas
        self._schedule = self._sampler.schedule(plan.steps, **schedule_options)
        self._interval = self._schedule.times_between(*plan.cfg_interval) if plan.cfg_interval else None
        self._network = _network(model, model.predict, plan)
        self._guide = None if model.guide is None else _network(model, model.guide, plan)

    def __call__(
        self, indices: NDArray[np.int64], labels: Tensor, report: Report, count_passes: Callable[[int], None]
    ) -> Tensor:
        plan, evaluations = self._plan, self._schedule.evaluations
        assert plan.cfg is not None
        denoiser = guided(
            _Counted(self._network, count_passes),
            labels,
            null_class=null_class(self._model),
            scale=plan.cfg,
            channels=3 if plan.cfg_channels == "3" else None,
            interval=self._interval,
        )
        done = 0

        def counted_denoiser(x: Tensor, t: float) -> Tensor:
            nonlocal done
            output = denoiser(x, t)
            done += 1
            report(done / evaluations)
            return output

        noise = ImageNoise(plan.seed, torch.from_numpy(indices).to(self._device))
        latents = noise.latents((len(indices), *self._model.shape))
        return self._sampler.run(counted_denoiser, latents, self._schedule, noise, **self._run_options)


@dataclass(frozen=True)
class _Counted:
    """A network that reports how many images pass through it."""

    network: Network
    count_passes: Callable[[int], None]

    def condition(self, *times_and_classes: Tensor) -> Any:
        return self.network.condition(*times_and_classes)

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        self.count_passes(len(x))
        return self.network.denoise(x, condition)


def _network(model: FlowModel | DiffusionModel, predict: Predict, plan: Plan) -> Network:
    """A prediction function of the model, in the precision of the plan; time runs from noise at 0 to data at
    1
    for a FlowModel.
    """
    if isinstance(predict, DiT):
        predict = AutocastNetwork(predict, precision=plan.precision, compiled=plan.compile)
    reverse_time = isinstance(model, FlowModel) and model.noise_at == 1
    velocity = isinstance(model, FlowModel) and plan.options["prediction"] in ("velocity", "average-velocity")
    if not hasattr(predict, "denoise"):
        predict = FunctionNetwork(
            predict,
            channels=model.shape[0],
            autocast=plan.precision == "bf16",
            compiled=plan.compile,
        )
    return ReversedTime(predict, negate=velocity) if reverse_time else predict


def _require_images(images: Tensor, count: int, size: int) -> None:
    """Raise ModelError unless images are (count, 3, size, size) or (count, size, size, 3)."""
    shape = tuple(getattr(images, "shape", ()))
    if shape not in ((count, 3, size, size), (count, 1, size, size), (count, size, size, 3)):
        raise ModelError(
            f"images returned {shape or type(images).__name__} for {count} labels; expected a tensor "
            f"({count}, 3, {size}, {size}), or ({count}, {size}, {size}, 3) of uint8."
        )
