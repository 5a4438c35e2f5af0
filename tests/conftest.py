"""Fixtures of all tiers: a cache of one's own, and the Inception weights of the recorded numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.shared import shared


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache, and no weights from the environment."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(folder))
    monkeypatch.delenv("DIT_EVAL_INCEPTION", raising=False)
    return folder


def golden_script(name: str) -> ModuleType:
    """One of the generators beside the recorded numbers, as a module."""
    path = shared("golden", f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"golden_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="session")
def golden_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic weights with which the originals were run, as a .safetensors file."""
    script = golden_script("make_inception_weights")
    weights = script.build(0, str(shared("golden", "calib_seed0.npz")))
    path = tmp_path_factory.mktemp("weights") / "inception_seed0.safetensors"
    script.save(weights, str(path))
    return path
