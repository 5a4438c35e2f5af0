"""The sampler of a plan: network, labels, guidance, noise and sampling algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_eval.dit import DiT
from dit_eval.generation.network import sampling_network
from dit_eval.generation.plan import Plan, choose_labels
from dit_eval.sampling.guidance import Time, guided
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.samplers import SAMPLERS

if TYPE_CHECKING:
    from dit_eval.cost.counter import FlopCount


class BatchSampler:
    """Samples any images of a plan. Raises UsageError if the plan does not fit the model or the schedule.

    labels: (num,) int64, the class of every image of the plan; network: counts the images passed through it.
    The DiT is converted in place to the precision of the plan.
    """

    def __init__(self, dit: DiT, plan: Plan) -> None:
        self._dit, self._plan = dit, plan
        self._sampler = SAMPLERS[plan.sampler]
        self._run_options, schedule_options = self._sampler.split(plan.options)
        self._schedule = self._sampler.schedule(plan.steps, **schedule_options)
        self._interval = self._schedule.times_between(*plan.cfg_interval) if plan.cfg_interval else None
        self.labels = choose_labels(plan.labels, num=plan.num, num_classes=dit.num_classes, seed=plan.seed)
        self.network = sampling_network(dit, precision=plan.precision, compiled=plan.compile)

    def count_flops(self) -> FlopCount:
        """The cost of one image's pass through the network, as counted by `dit-eval flops table`."""
        from dit_eval.cost.counter import count_flops  # fvcore takes a second to load

        dit = self._dit
        return count_flops(
            dit.config,
            input_size=dit.input_size,
            in_channels=dit.in_channels,
            num_classes=dit.num_classes,
            block=dit.block,
            learn_sigma=dit.learn_sigma,
        )

    def sample(self, indices: NDArray[np.int64], report_progress: Callable[[float], None]) -> Tensor:
        """The samples (N, C, h, w) float32 of the images with these indices (N,).

        report_progress: called with the completed fraction of the work; adaptive solvers report the end only.
        """
        dit, plan = self._dit, self._plan
        device = self.network.device
        denoiser = guided(
            self.network,
            torch.from_numpy(self.labels[indices]).to(device),
            null_class=dit.num_classes,
            scale=plan.cfg,
            channels=None if plan.cfg_channels == "all" else int(plan.cfg_channels),
            interval=self._interval,
        )
        evaluations, total = 0, self._schedule.evaluations

        def counted_denoiser(x: Tensor, t: Time) -> Tensor:
            nonlocal evaluations
            output = denoiser(x, t)
            evaluations += 1
            if total is not None:
                report_progress(evaluations / total)
            return output

        noise = ImageNoise(plan.seed, torch.from_numpy(indices).to(device))
        latents = noise.latents((len(indices), dit.in_channels, dit.input_size, dit.input_size))
        samples = self._sampler.run(counted_denoiser, latents, self._schedule, noise, **self._run_options)
        report_progress(1.0)
        return samples
