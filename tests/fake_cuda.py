"""A CUDA device without hardware: tensors without values, and a record of the calls that wait for the device.

    with fake_cuda() as calls:
        work_on("cuda")
    assert calls.synchronising == []

A tensor on the wrong device raises, as it does on hardware. Values do not exist: every number read from the
device is 1, every condition is true, and arrays copied from it hold zeros.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dit_eval.runtime.distributed import Rank

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

# In inference mode, `item` and `to` arrive as they are, else as `_local_scalar_dense` and `_to_copy`
_READS_NUMBER = ("_local_scalar_dense", "item", "is_nonzero", "equal")
# Operators whose result has a shape or an error that depends on values on the device
_READS_VALUES = ("nonzero", "masked_select", "_unique2", "_linalg_check_errors")


class DeviceCalls(TorchDispatchMode):
    """Records the operators that run within the block.

    operators: names of all, in order, views and copies included; synchronising: operator and line of every
    call that makes the host wait for the work that the device has been given, in order: values read, copies
    that are not `non_blocking`, uploads from memory that is not pinned, `torch.cuda.synchronize`;
    event_waits: calls of `Event.synchronize`, which wait for no more than was given before the event.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self._fake_mode = fake_mode
        self.operators: list[str] = []
        self.synchronising: list[str] = []
        self.event_waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if func.namespace == "prim":
            return func(*args, **kwargs)
        args = tuple(self._fake(x) for x in args)
        self.operators.append(name)
        if name in _READS_NUMBER:
            if _on_cuda(args[0]):
                self.waits(name)
            truth = name in ("equal", "is_nonzero") or args[0].dtype == torch.bool
            return True if truth else 1.0 if args[0].is_floating_point() else 1
        if name in ("_to_copy", "to") and "device" in kwargs:
            self._copy(name, args[0], kwargs["device"], kwargs.get("non_blocking", False))
        elif name == "copy_":
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            self._copy(name, args[1], args[0].device, non_blocking)
        elif name in _READS_VALUES and any(_on_cuda(x) for x in args):
            self.waits(name)
        return func(*args, **kwargs)

    def _fake(self, x: Any) -> Any:
        """A tensor of another thread as one of this thread; anything else as it is."""
        if not isinstance(x, torch.Tensor) or isinstance(x, FakeTensor) or not x.dim():
            return x
        fake: Any = self._fake_mode.from_tensor(x)
        fake.fake_pinned = _is_pinned(x)
        return fake

    def _copy(self, name: str, source: torch.Tensor, to: torch.device, non_blocking: bool) -> None:
        if source.device.type == to.type:
            return
        if not non_blocking:
            self.waits(f"{name} {source.device.type} → {to.type}")
        elif to.type == "cuda" and source.dim() and not _is_pinned(source):
            self.waits(f"{name} to cuda from memory that is not pinned")

    def waits(self, call: str) -> None:
        """Record a call that synchronises, with the innermost line of this project."""
        frames = [frame for frame in traceback.extract_stack() if "dit_eval" in frame.filename]
        where = f" at {frames[-1].filename.split('dit_eval')[-1]}:{frames[-1].lineno}" if frames else ""
        self.synchronising.append(call + where)


def _on_cuda(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "cuda"


def _is_pinned(x: torch.Tensor) -> bool:
    return getattr(x, "fake_pinned", False)


class FakeEvent:
    """An event of a busy device: the last three to be recorded have not happened yet."""

    def __init__(self, calls: DeviceCalls, recent: deque[FakeEvent]) -> None:
        self._calls, self._recent = calls, recent

    def record(self, *_: object) -> None:
        self._recent.append(self)

    def query(self) -> bool:
        return self not in self._recent

    def synchronize(self) -> None:
        self._calls.event_waits += 1

    def wait(self, *_: object) -> None: ...


class FakeStream:
    """A stream that orders nothing."""

    device = CUDA

    def __init__(self, calls: DeviceCalls) -> None:
        self._calls = calls

    def synchronize(self) -> None:
        self._calls.waits("Stream.synchronize")

    def wait_stream(self, *_: object) -> None: ...

    def wait_event(self, *_: object) -> None: ...


@contextmanager
def fake_cuda() -> Iterator[DeviceCalls]:
    """Within the block, new tensors are fake, "cuda" is a device, and its calls are recorded.

    Only calls of this thread are recorded, and in other threads tensors are real. `torch.cuda.is_available`
    stays False, because torch's fake tensors depend on it; `Rank.device` finds the device all the same.
    """
    fake_mode, real_numpy = FakeTensorMode(allow_non_fake_inputs=True), torch.Tensor.numpy
    calls, recent = DeviceCalls(fake_mode), deque[FakeEvent](maxlen=3)

    def to_numpy(tensor: torch.Tensor, **_: object) -> np.ndarray:
        assert tensor.device.type == "cpu", f"numpy() of a tensor on {tensor.device}"
        if not isinstance(tensor, FakeTensor):  # of another thread
            return real_numpy(tensor)
        return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned = tensor.clone()
        pinned.fake_pinned = True  # type: ignore[attr-defined]
        return pinned

    of_tensors = {
        "numpy": to_numpy,
        "pin_memory": pin,
        "is_pinned": _is_pinned,
        "record_stream": lambda *_: None,
    }
    of_cuda = {
        "Event": lambda *_, **__: FakeEvent(calls, recent),
        "Stream": lambda *_, **__: FakeStream(calls),
        "current_stream": lambda *_: FakeStream(calls),
        "stream": lambda *_: nullcontext(),
        "synchronize": lambda *_: calls.waits("torch.cuda.synchronize"),
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: "fake CUDA device",
        "is_bf16_supported": lambda *_: True,
    }
    with (
        patch.multiple(torch.Tensor, **of_tensors),
        patch.multiple(torch.cuda, **of_cuda),
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),  # autocast works
        patch.object(Rank, "device", lambda _, name: CPU if name == "cpu" else CUDA),
        fake_mode,
        calls,
    ):
        yield calls
