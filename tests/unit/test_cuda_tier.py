"""The CUDA tier's tests of sampling, on a CPU: what they claim holds there, so they can run at all."""

from __future__ import annotations

import pytest
import torch

from tests.cuda.test_sampling import *  # noqa: F403


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")
