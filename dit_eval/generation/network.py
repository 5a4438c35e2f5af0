"""What a model predicts, as the network that guidance calls: `dit_eval.sampling.guidance.Network`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dit_eval.errors import ModelError
from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel, Model
from dit_eval.generation.plugins import model_errors
from dit_eval.sampling.guidance import Network, Predict


def in_precision(model: Model, settings: Mapping[str, Any]) -> Model:
    """The model of a plug-in with `predict` and `guide` in the precision of the settings, compiled if they
    say so.

    bf16 is torch.autocast, because the weights belong to the plug-in; a model that samples images by itself
    stays as it is.
    """
    if isinstance(model, ImageModel):
        return model

    def prepared(predict: Predict) -> Predict:
        if settings["compile"]:
            predict = torch.compile(predict)  # type: ignore[assignment]
        return _autocast(predict) if settings["precision"] == "bf16" else predict

    guide = None if model.guide is None else prepared(model.guide)
    return replace(model, predict=prepared(model.predict), guide=guide)


def network_of(
    model: FlowModel | DiffusionModel, predict: Predict, count_passes: Callable[[int], None]
) -> Network:
    """`predict`, or a guide, of the model, with time from noise at 0 to data at 1 if the model is a flow.

    count_passes: called with the number of images in every pass.
    """
    channels = model.shape[0]
    exact = isinstance(model, DiffusionModel)
    if exact and model.learned_variance:
        channels *= 2
    network = predict if isinstance(predict, Network) else _FunctionNetwork(predict, channels, exact)
    if isinstance(model, FlowModel) and model.noise_at == 1:
        network = _ReversedTime(network, negate="velocity" in model.prediction)
    return _Counted(network, count_passes)


def _autocast(predict: Predict) -> Callable[..., Tensor]:
    def predict_in_bf16(x: Tensor, t: Tensor, y: Tensor, *ends: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return predict(x, t, y, *ends)  # type: ignore[operator]

    return predict_in_bf16


@dataclass(frozen=True)
class _Rows:
    """Times, (1,) if all images share them, else (N,), and classes (N,)."""

    times: tuple[Tensor, ...]
    y: Tensor

    def take(self, rows: Tensor) -> _Rows:
        return _Rows(tuple(t if len(t) == 1 else t[rows] for t in self.times), self.y[rows])


@dataclass(frozen=True)
class _FunctionNetwork:
    """A function (x, t, y) → prediction. channels: of the prediction, which may have more unless exact."""

    predict: Callable[..., Tensor]
    channels: int
    exact: bool

    def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> _Rows:
        return _Rows((t, *ends), y)

    def denoise(self, x: Tensor, condition: _Rows) -> Tensor:
        """Raises ModelError for an output of another shape than (N, channels, H, W)."""
        t, *ends = [time.expand(len(x)) for time in condition.times]
        with model_errors("predict"):
            output: Any = self.predict(x, t, condition.y, *ends)
        shape = list(getattr(output, "shape", ()))
        fits = len(shape) == 4 and shape[1] >= self.channels and not (self.exact and shape[1] > self.channels)
        if not fits or shape != [len(x), shape[1], *x.shape[2:]]:
            found = f"shape {tuple(shape)}" if shape else f"type {type(output).__name__}"
            raise ModelError(
                f"predict returned a value of {found}; expected a tensor of shape "
                f"({len(x)}, {self.channels}{'' if self.exact else ' or more'}, {x.shape[2]}, {x.shape[3]})."
            )
        return output


@dataclass(frozen=True)
class _ReversedTime:
    """A network whose time runs from data at 0 to noise at 1, as one whose time runs the other way.

    negate: its prediction is a derivative with respect to time, such as a velocity.
    """

    network: Network
    negate: bool

    def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> Any:
        return self.network.condition(1 - t, y, *(1 - end for end in ends))  # type: ignore[call-arg]

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        output = self.network.denoise(x, condition)
        return -output if self.negate else output


@dataclass(frozen=True)
class _Counted:
    """A network that reports how many images pass through it."""

    network: Network
    count_passes: Callable[[int], None]

    def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> Any:
        return self.network.condition(t, y, *ends)  # type: ignore[call-arg]

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        self.count_passes(len(x))
        return self.network.denoise(x, condition)
