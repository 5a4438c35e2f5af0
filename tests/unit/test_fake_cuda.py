"""The fake CUDA device finds what stalls a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dit_eval.metrics.precision_recall import precision_recall
from tests.fake_cuda import CUDA, fake_cuda

Call = Callable[[torch.Tensor, torch.Tensor], object]  # of a tensor on the device and one on the host

SYNCHRONISING: dict[str, Call] = {
    "item": lambda x, _: x.sum().item(),
    "condition": lambda x, _: bool((x > 0).all()),
    "float": lambda x, _: float(x[0]),
    "tolist": lambda x, _: x.tolist(),
    "cpu": lambda x, _: x.cpu(),
    "to cpu": lambda x, _: x.to("cpu"),
    "to cuda": lambda _, y: y.to(CUDA),
    "to cuda, not pinned": lambda _, y: y.to(CUDA, non_blocking=True),
    "copy_": lambda x, y: y.copy_(x),
    "new tensor": lambda *_: torch.tensor([1.0, 2.0], device=CUDA),
    "equal": lambda x, _: torch.equal(x, x),
    "synchronize": lambda *_: torch.cuda.synchronize(),
    "cholesky": lambda x, _: torch.linalg.cholesky(x[:, None] * x),
}
ASYNCHRONOUS: dict[str, Call] = {
    "arithmetic": lambda x, _: (x * 2 + x.sum()).half(),
    "to cpu": lambda x, _: x.to("cpu", non_blocking=True),
    "to cuda": lambda _, y: y.pin_memory().to(CUDA, non_blocking=True),
    "copy_": lambda x, y: y.copy_(x, non_blocking=True),
    "assignment": lambda x, _: x.__setitem__(slice(0, 2), x[2:4]),
    "host": lambda _, y: (y.cpu().numpy(), y.sum().item()),
    "event": lambda *_: torch.cuda.Event().record(),
}


@pytest.mark.parametrize("call", SYNCHRONISING.values(), ids=SYNCHRONISING)
def test_a_call_that_waits_for_the_device_is_recorded(call: Call) -> None:
    with fake_cuda() as calls:
        x, y = torch.zeros(4, device=CUDA), torch.zeros(4)
        assert calls.synchronising == []
        call(x, y)
    assert len(calls.synchronising) >= 1


@pytest.mark.parametrize("call", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
def test_other_calls_are_not(call: Call) -> None:
    with fake_cuda() as calls:
        call(torch.zeros(4, device=CUDA), torch.zeros(4))
    assert calls.synchronising == []


def test_a_tensor_on_the_wrong_device_raises() -> None:
    with fake_cuda(), pytest.raises(RuntimeError, match="cuda"):
        _ = torch.zeros(4, device=CUDA) + torch.zeros(4)


def test_the_line_that_waits_is_named() -> None:
    reference, samples = np.zeros((2, 40, 8), np.float32)
    with fake_cuda() as calls:
        precision_recall(reference, samples, device="cuda")
    assert any("precision_recall.py:" in call for call in calls.synchronising)


def test_a_busy_device_has_not_finished_its_last_three_events() -> None:
    with fake_cuda() as calls:
        events = [torch.cuda.Event() for _ in range(5)]
        for event in events:
            event.record()
        assert [event.query() for event in events] == [True, True, False, False, False]
        events[-1].synchronize()
    assert (calls.event_waits, calls.synchronising) == (1, [])


def test_everything_is_as_before_afterwards() -> None:
    before = torch.Tensor.numpy, torch.cuda.Event, torch.cuda.synchronize
    with fake_cuda():
        pass
    assert (torch.Tensor.numpy, torch.cuda.Event, torch.cuda.synchronize) == before
    assert type(torch.zeros(1)) is torch.Tensor
