"""From Python: arrays as samples, types, and results that show themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dit_eval
from dit_eval.errors import StatisticsError, UsageError
from tests.handmade import handmade


def some_images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    np.savez(tmp_path / "ref.npz", some_images(5, 1))
    return tmp_path / "ref.npz"


def test_arrays_of_a_training_loop_give_the_numbers_of_the_file(
    reference: Path, golden_inception: Path, tmp_path: Path, own_cache: Path
) -> None:
    images = some_images(7, 0)
    np.savez(tmp_path / "samples.npz", images)

    def batches() -> Iterator[np.ndarray]:
        yield images[:3]
        yield images[3:]

    file = tmp_path / "samples.npz"
    from_file = dit_eval.evaluate(file, reference, inception=golden_inception, batch_size=3)
    from_loop = dit_eval.evaluate(batches(), reference, inception=golden_inception, batch_size=3)
    assert from_file is not None
    assert from_loop is not None
    assert from_loop.metrics == pytest.approx(from_file.metrics, rel=1e-6)
    assert (from_loop.samples["path"], from_loop.samples["n"]) == ("arrays", 7)
    assert from_loop.name == "arrays"
    assert len(list((own_cache / "features").iterdir())) == 2  # of the two files


def test_too_few_arrays_are_refused(reference: Path, golden_inception: Path) -> None:
    with pytest.raises(StatisticsError, match="at least 4 images"):
        dit_eval.evaluate(some_images(3, 0), reference, inception=golden_inception)


def test_a_notebook_shows_a_result_as_a_table() -> None:
    shown = handmade(samples="<b>.npz", model=None)._repr_html_()
    assert shown.count("<tr>") == 1 + 5
    assert "<td>9.6000</td>" in shown
    assert "&lt;b&gt;.npz: 50,000 images, protocol adm adm-fingerprint" in shown


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"device": "mps"}, "device 'mps' is not supported"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available"),
    ],
)
def test_wrong_parameters_of_an_evaluation_are_named(tmp_path: Path, options, complaint: str) -> None:
    np.savez(tmp_path / "samples.npz", some_images(5, 0)[:, :8, :8])
    with pytest.raises(UsageError, match=complaint):
        dit_eval.evaluate(tmp_path / "samples.npz", "digits", **options)
