"""The CUDA tier's tests of sampling, on a CPU, where they must run.

Recorded numbers are compared there too; what compares a GPU with a CPU proves nothing on a CPU.
"""

from __future__ import annotations

import pytest
import torch

from tests.cuda.test_sampling import *  # noqa: F403


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")
