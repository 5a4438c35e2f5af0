"""Copies from a device to the host that run while the host goes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """Arrays on their way to host memory: the host waits for tensors on a CUDA device only in `arrays`.

    All such tensors are on one device. They are copied to pinned memory, in the stream that computes them.
    """

    def __init__(self, *arrays: np.ndarray | Tensor) -> None:
        self._arrays = [x.to("cpu", non_blocking=True) if isinstance(x, Tensor) else x for x in arrays]
        self._event: torch.cuda.Event | None = None
        for device in {x.device for x in arrays if isinstance(x, Tensor) and x.is_cuda}:
            self._event = torch.cuda.Event(blocking=True)
            self._event.record(torch.cuda.current_stream(device))

    def arrived(self) -> bool:
        """True if `arrays` would not wait."""
        return self._event is None or self._event.query()

    def arrays(self) -> list[np.ndarray]:
        """The arrays, in host memory."""
        if self._event is not None:
            self._event.synchronize()
        return [x.numpy() if isinstance(x, Tensor) else x for x in self._arrays]


def host_array(tensor: Tensor) -> np.ndarray | Tensor:
    """A CPU tensor as the array that shares its memory; a tensor on another device as it is."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor
