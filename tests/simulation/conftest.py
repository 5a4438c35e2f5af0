"""Figures of the simulations, for --junitxml and whoever quotes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Record = Callable[[str, object], None]


@pytest.fixture
def record_property(record_testsuite_property: Record, request: pytest.FixtureRequest) -> Record:
    """Named by the test."""
    return lambda name, value: record_testsuite_property(f"{request.node.name}.{name}", value)
