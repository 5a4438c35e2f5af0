"""The three kinds of models that can be sampled: what a plug-in's `load()` returns and `generate` accepts.

    DiffusionModel   predicts noise on a schedule of betas; our DDPM and DDIM samplers
    FlowModel        predicts along an interpolation path; our ODE and SDE solvers
    ImageModel       samples images by itself

The bundled DiT and SiT are a DiffusionModel and a FlowModel too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from dit_eval.errors import UsageError, require_choices, require_positive
from dit_eval.sampling.guidance import Predict
from dit_eval.sampling.options import RANGES
from dit_eval.sampling.paths import PATHS, PREDICTIONS
from dit_eval.sampling.schedules import linear_betas

Decode = Callable[[Tensor], Tensor]  # (N, C, H, W) float32 → images as `ImageModel.images` returns them


@dataclass(frozen=True)
class ImageModel:
    """A model that samples images by itself, such as MAR, VAR or a diffusers pipeline.

    images: called with labels (N,) int64 on the device; returns images (N, 3 or 1, H, W), floats in
    `value_range`, or uint8 (N, H, W, 3). Before each call, torch, NumPy and `random` are seeded from
    (seed, first index), so that a batch is the same on any rank and after any interruption, for one batch
    size. If `images` has a parameter `generators`, it is passed one torch.Generator per image, seeded from
    (seed, index): images drawn with them alone depend on their own index only. If it has parameters `cfg`
    or `steps`, it is passed these settings; their defaults are 1.0 and 250, not those of the function.
    image_size: pixels along a side.
    """

    family: ClassVar[str] = "images"

    images: Callable[..., Tensor]
    image_size: int
    num_classes: int = 1000
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise UsageError for arguments out of range."""
        _require_callable(self, images=self.images)
        require_positive(image_size=self.image_size, num_classes=self.num_classes)
        _require_range(self.value_range)


@dataclass(frozen=True)
class FlowModel:
    """A network trained along an interpolation path, such as SiT, REPA, LightningDiT or JiT.

    predict: (x (N, *shape) float32, t (N,), y (N,) int64) → prediction (N, C or more, H, W), of which the
    first C channels are used; or an object with the two methods of `dit_eval.sampling.guidance.Network`.
    shape: (C, H, W) of x. decode: x → images as from `ImageModel.images`; None for models of pixels. With
    "average-velocity", `predict` also takes the time r at which the interval ends: (x, t, y, r). prediction,
    path: see `dit_eval.sampling.paths`; noise_at: the network's time t of pure noise, 0 or 1; null_class: the
    label of unconditional predictions, None for `num_classes`; noise_scale: standard deviation of the initial
    noise; t_eps: smallest noise level σ by which an x-prediction is divided; guide: a second network like
    `predict`, from which the predictions are guided away (autoguidance, Karras et al. 2024).
    """

    family: ClassVar[str] = "flow"

    predict: Predict
    shape: Sequence[int]
    decode: Decode | None = None
    prediction: Literal["velocity", "x", "noise", "score", "average-velocity"] = "velocity"
    noise_at: Literal[0, 1] = 0
    path: str = "linear"
    null_class: int | None = None
    noise_scale: float = 1.0
    t_eps: float = 0.0
    guide: Predict | None = None
    num_classes: int = 1000
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise UsageError for arguments out of range."""
        _require_network(self)
        require_choices(
            prediction=(self.prediction, (*PREDICTIONS, "average-velocity")),
            noise_at=(self.noise_at, (0, 1)),
            path=(self.path, PATHS),
        )
        for name, value in (("noise_scale", self.noise_scale), ("t_eps", self.t_eps)):
            if value not in RANGES[name]:
                raise UsageError(f"FlowModel: {name} is {value!r}; expected {RANGES[name].expected}.")


@dataclass(frozen=True)
class DiffusionModel:
    """A network that predicts the noise of a Gaussian diffusion, such as DiT.

    predict, shape, decode, null_class, guide: see `FlowModel`; t is an index of `betas`. betas: (T,), None
    for DiT's linear schedule of 1000; learned_variance: the prediction has 2C channels, of which the last C
    interpolate the log variance (Nichol & Dhariwal 2021); otherwise it has C and the variance is β.
    """

    family: ClassVar[str] = "diffusion"

    predict: Predict
    shape: Sequence[int]
    decode: Decode | None = None
    betas: Sequence[float] | np.ndarray | None = None
    learned_variance: bool = False
    null_class: int | None = None
    guide: Predict | None = None
    num_classes: int = 1000
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise UsageError for arguments out of range."""
        _require_network(self)
        betas = np.asarray(linear_betas() if self.betas is None else self.betas, dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise UsageError("DiffusionModel: betas must be a sequence of numbers between 0 and 1.")
        object.__setattr__(self, "betas", betas)


Model = ImageModel | FlowModel | DiffusionModel


def null_class(model: FlowModel | DiffusionModel) -> int:
    """The label of the model's unconditional predictions."""
    return model.num_classes if model.null_class is None else model.null_class


def _require_network(model: FlowModel | DiffusionModel) -> None:
    guide, decode = model.guide, model.decode
    _require_callable(
        model,
        **({} if hasattr(model.predict, "denoise") else {"predict": model.predict}),
        **({} if guide is None or hasattr(guide, "denoise") else {"guide": guide}),
        **({} if decode is None else {"decode": decode}),
    )
    shape = tuple(model.shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UsageError(
            f"{type(model).__name__}: shape is {model.shape}; expected (channels, height, width)."
        )
    require_positive(num_classes=model.num_classes)
    _require_range(model.value_range)


def _require_callable(model: Model, **parameters: object) -> None:
    for name, value in parameters.items():
        if not callable(value):
            raise UsageError(
                f"{type(model).__name__}: {name} is of type {type(value).__name__}; expected a function."
            )


def _require_range(value_range: tuple[float, float]) -> None:
    low, high = value_range
    if not low < high:
        raise UsageError(f"value_range is {value_range}; expected (lowest, highest).")
