"""The inputs of the recorded numbers are the bytes on which the original programs were run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dit_eval.diagnostics.recorded import dit_weights, images, inception_weights
from dit_eval.diagnostics.recorded.numbers import FOLDER, expected
from tests.recorded import GOLDEN, recorded

SETS = [  # the largest take seconds
    pytest.param(key, marks=pytest.mark.simulation if " 2560 " in key else ())
    for key in expected()["sha256"]["images"]
]


@pytest.mark.parametrize("key", SETS)
def test_images_are_those_that_the_evaluator_was_given(key: str) -> None:
    name, n, size = key.split()
    found = images.build(name, int(n), int(size))
    assert found.shape == (int(n), int(size), int(size), 3)
    assert hashlib.sha256(found.tobytes()).hexdigest() == expected()["sha256"]["images"][key]


def test_inception_weights_are_those_of_the_frozen_graph() -> None:
    assert inception_weights.digest(inception_weights.build()) == expected()["sha256"]["inception_weights"]


@pytest.mark.parametrize("name", dit_weights.CONFIGS)
def test_dit_weights_are_those_that_the_originals_loaded(name: str) -> None:
    found = dit_weights.build(dit_weights.CONFIGS[name])
    assert inception_weights.digest(found) == expected()["sha256"]["dit_weights"][name]


def test_noise_is_that_of_the_recorded_chain() -> None:
    dit = recorded("dit")
    steps = [dit_weights.noise("p10", step, (4, 4, 8, 8)) for step in range(10)]
    np.testing.assert_array_equal(steps, dit["noise_p10"])
    np.testing.assert_array_equal(dit_weights.noise("p10/z", 0, (2, 4, 8, 8)), dit["noise_p10_z"])


def test_recorded_numbers_take_at_most_4_mb_and_the_readme_names_every_file() -> None:
    readme = (GOLDEN / "README.md").read_text("utf-8")
    total = 0
    for folder, limit in ((GOLDEN, 3_000_000), (FOLDER, 950_000)):  # the second is part of the wheel
        files = [path for path in folder.iterdir() if path.suffix in (".npz", ".json")]
        size = sum(path.stat().st_size for path in files)
        assert size <= limit
        assert not {path.name for path in files if f"`{path.name}`" not in readme}
        total += size
    assert total <= 4_000_000


def test_no_test_reads_a_file_beside_the_checkout() -> None:
    beside = "../" + "shared"
    tests = Path(__file__).resolve().parents[1]
    assert [path for path in tests.rglob("*.py") if beside in path.read_text("utf-8")] == []
