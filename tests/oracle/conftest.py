"""What all comparisons with recorded numbers have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def two_threads() -> Iterator[None]:
    """The tolerances were seen to hold with two threads: with another number oneDNN adds in another order.

    The inception score of case C then moves by up to 2e-6.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
