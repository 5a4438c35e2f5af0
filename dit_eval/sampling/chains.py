"""The chains of a plan: model, labels, noise, guidance and sampler, put together once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_eval.dit import DiT
from dit_eval.sampling import SAMPLERS
from dit_eval.sampling.guidance import Denoiser, guided
from dit_eval.sampling.network import SampledNetwork
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.plan import Plan, choose_labels
from dit_eval.sampling.schedules import diffusion_schedule

if TYPE_CHECKING:
    from dit_eval.flops import FlopCount


class Chains:
    """Draws any images of a plan. Raises UsageError if the plan asks for what the model or schedule lacks.

    labels: (num,) int64, the class of every image; network: counts its passes; steps: the length of a chain.
    """

    def __init__(self, dit: DiT, plan: Plan) -> None:
        self._dit, self._plan = dit, plan
        self._schedule = diffusion_schedule(plan.steps)
        self._interval = self._schedule.times_between(*plan.cfg_interval) if plan.cfg_interval else None
        self._options: dict[str, Any] = {"eta": plan.eta} if plan.sampler == "ddim" else {}
        self.steps = len(self._schedule)
        self.labels = choose_labels(plan.labels, num=plan.num, num_classes=dit.num_classes, seed=plan.seed)
        self.network = SampledNetwork(dit, precision=plan.precision, compiled=plan.compile)

    def count_flops(self) -> FlopCount:
        """The cost of one image's pass through the network, as in `flops table`."""
        from dit_eval.flops import VAE_STRIDE, count_flops  # fvcore takes a second to load

        dit = self._dit
        return count_flops(
            dit.config,
            image_size=VAE_STRIDE * dit.input_size,
            in_channels=dit.in_channels,
            num_classes=dit.num_classes,
            block=dit.block,
        )

    def draw(self, indices: NDArray[np.int64], watch: Callable[[Denoiser], Denoiser]) -> Tensor:
        """The samples (N, C, h, w) float32 of N images; `watch` may wrap the denoiser to see every step."""
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
        noise = ImageNoise(plan.seed, torch.from_numpy(indices).to(device))
        start = noise.latents((len(indices), dit.in_channels, dit.input_size, dit.input_size))
        return SAMPLERS[plan.sampler](watch(denoiser), start, self._schedule, noise, **self._options)
