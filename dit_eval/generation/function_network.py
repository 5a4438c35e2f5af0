"""A plug-in's `predict` function as the network that guidance calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_eval.errors import ModelError
from dit_eval.generation.plugins import model_errors
from dit_eval.sampling.guidance import Network, Predict


@dataclass(frozen=True)
class _Rows:
    """Times, (1,) if all images share them, else (N,), and classes (N,)."""

    times: tuple[Tensor, ...]
    y: Tensor

    def take(self, rows: Tensor) -> _Rows:
        return _Rows(tuple(t if len(t) == 1 else t[rows] for t in self.times), self.y[rows])


class FunctionNetwork:
    """`predict` (x, t, y) → prediction, as a `dit_eval.sampling.guidance.Network`.

    channels: C, the number of channels of x, which a prediction must have at least; autocast: compute in
    bfloat16 where torch.autocast does.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        channels: int,
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self._predict: Callable[..., Tensor] = torch.compile(predict) if compiled else predict
        self._channels, self._autocast = channels, autocast

    def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> _Rows:
        """Times (1,) or (M,), classes (M,) and, for average velocities, the end of the interval → M rows."""
        return _Rows((t, *ends), y)

    def denoise(self, x: Tensor, condition: _Rows) -> Tensor:
        """x (N, C, H, W) → (N, C or more, H, W). Raises ModelError for anything else."""
        t, *ends = (time.expand(len(x)) for time in condition.times)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast), model_errors("predict"):
            output = self._predict(x, t, condition.y, *ends)
        shape = getattr(output, "shape", None)
        if shape is None or len(shape) != 4 or shape[1] < self._channels or shape[2:] != x.shape[2:]:
            found = f"shape {tuple(shape)}" if shape is not None else f"type {type(output).__name__}"
            raise ModelError(
                f"predict returned a value of {found}; expected a tensor of shape "
                f"({len(x)}, {self._channels} or more, {x.shape[2]}, {x.shape[3]})."
            )
        return output


class ReversedTime:
    """A network whose time runs from data at 0 to noise at 1, as one whose time runs the other way.

    negate: its prediction is a derivative with respect to time, such as a velocity.
    """

    def __init__(self, network: Network, *, negate: bool) -> None:
        self._network, self._negate = network, negate

    def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> Any:
        """See `Network`."""
        return self._network.condition(1 - t, y, *(1 - end for end in ends))

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        """See `Network`."""
        output = self._network.denoise(x, condition)
        return -output if self._negate else output
