"""The chains of a plan: model, labels, noise, guidance and sampler, put together once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_eval.dit import Conditioning, DiT
from dit_eval.generation.plan import Plan, choose_labels
from dit_eval.sampling.flow_schedules import ADAPTIVE
from dit_eval.sampling.guidance import Denoiser, guided
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.samplers import SAMPLERS

if TYPE_CHECKING:
    from dit_eval.cost.counter import FlopCount


class BatchSampler:
    """Draws any images of a plan. Raises UsageError if the plan asks for what the model or schedule lacks.

    labels: (num,) int64, the class of every image; network: counts its passes.
    """

    def __init__(self, dit: DiT, plan: Plan) -> None:
        self._dit, self._plan = dit, plan
        self._sampler = SAMPLERS[plan.sampler]
        self._options = {name: plan.options[name] for name in self._sampler.run_options}
        self._schedule = self._sampler.schedule(
            plan.steps, **{name: plan.options[name] for name in self._sampler.schedule_options}
        )
        self._interval = self._schedule.times_between(*plan.cfg_interval) if plan.cfg_interval else None
        self._calls = self._count_calls()
        self.labels = choose_labels(plan.labels, num=plan.num, num_classes=dit.num_classes, seed=plan.seed)
        self.network = AutocastNetwork(dit, precision=plan.precision, compiled=plan.compile)

    def count_flops(self) -> FlopCount:
        """The cost of one image's pass through the network, as in `flops table`."""
        from dit_eval.cost.counter import VAE_STRIDE, count_flops  # fvcore takes a second to load

        dit = self._dit
        return count_flops(
            dit.config,
            image_size=VAE_STRIDE * dit.input_size,
            in_channels=dit.in_channels,
            num_classes=dit.num_classes,
            block=dit.block,
        )

    def draw(self, indices: NDArray[np.int64], tell: Callable[[float], None]) -> Tensor:
        """The samples (N, C, h, w) float32 of N images; `tell` hears on the way which share of them is drawn.

        An adaptive solver looks at the error of all that it is given. It is given each image by itself, so
        that none depends on those beside it.
        """
        if self._plan.options.get("solver") not in ADAPTIVE:
            return self._draw_together(indices, lambda calls: tell(calls / self._calls))
        samples = []
        for index in indices:
            samples.append(self._draw_together(index[None], lambda calls: None))
            tell(len(samples) / len(indices))
        return torch.cat(samples)

    def _draw_together(self, indices: NDArray[np.int64], tell: Callable[[int], None]) -> Tensor:
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
        return self._sampler.run(_counted(denoiser, tell), start, self._schedule, noise, **self._options)

    def _count_calls(self) -> int:
        """How often a chain calls the denoiser, found by a dry run."""
        made = 0

        def count(calls: int) -> None:
            nonlocal made
            made = calls

        dry = _counted(lambda x, t: torch.zeros_like(x), count)
        nothing = torch.zeros(1, 1, 1, 1)
        self._sampler.run(dry, nothing, self._schedule, lambda step, shape: nothing, **self._options)
        return made


class AutocastNetwork:
    """A DiT with weights in float32 that computes in `precision`; see `guidance.Network` for its methods.

    passes: how many images have gone through it, those of guidance included.
    """

    def __init__(self, dit: DiT, *, precision: str = "fp32", compiled: bool = False) -> None:
        self.passes = 0
        self.device = next(dit.parameters()).device
        self._bf16 = precision == "bf16"
        self._condition = dit.condition
        self._denoise = torch.compile(dit.denoise) if compiled else dit.denoise

    def condition(self, t: Tensor, y: Tensor) -> Conditioning:
        """Times (1,) and classes (M,) → M rows of conditioning."""
        with self._autocast():
            return self._condition(t, y)

    def denoise(self, x: Tensor, condition: Conditioning) -> Tensor:
        """x (N, C, H, W) and N rows of conditioning → (N, C or 2C, H, W)."""
        self.passes += len(x)
        with self._autocast():
            return self._denoise(x, condition)

    def _autocast(self) -> torch.autocast:
        # Weights, LayerNorm and the residual sums stay in float32, only matrix products are rounded
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


def _counted(denoiser: Denoiser, tell: Callable[[int], None]) -> Denoiser:
    """The same denoiser; after each call `tell` hears how many there were."""
    calls = 0

    def counted(x: Tensor, t: float) -> Tensor:
        nonlocal calls
        output = denoiser(x, t)
        calls += 1
        tell(calls)
        return output

    return counted
