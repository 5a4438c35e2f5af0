"""A registry of one's own: the project's, and in it a tiny model with its reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dit_eval.io import assets
from tests.tiny import CONFIG, save_tiny

REFERENCE_N = 6


def make_registry(folder: Path) -> Path:
    """Write it below `folder`: the model `tiny` (8×8 pixels, 4 steps) and its reference `tiny`."""
    project = {kind: assets.folder(kind) for kind in ("models", "reference_stats")}
    for kind, path in project.items():
        (folder / kind).mkdir(parents=True)
        for file in path.glob("*.toml"):
            shutil.copy(file, folder / kind)
    save_tiny(folder / "models")
    config = ", ".join(f"{key} = {value}" for key, value in vars(CONFIG).items())
    entry = (
        '\n[tiny]\nrole = "dit"\nfile = "tiny.safetensors"\nimage_size = 8\nreference = "tiny"\nsteps = 4\n'
    )
    with (folder / "models" / "manifest.toml").open("a", encoding="utf-8") as manifest:
        manifest.write(f"{entry}config = {{ {config} }}\n")
    with (folder / "reference_stats" / "manifest.toml").open("a", encoding="utf-8") as manifest:
        manifest.write('\n[tiny]\nfile = "tiny.npz"\n')
    images = np.random.default_rng(0).integers(0, 256, (REFERENCE_N, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "reference_stats" / "tiny.npz", arr_0=images, arr_1=np.arange(REFERENCE_N))
    return folder


def use_registry(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Look assets up there, until the patch is undone."""
    patch.setattr(assets, "folder", lambda kind: folder / kind)
