from __future__ import annotations

import numpy as np
import pytest

from dit_eval.errors import UsageError
from dit_eval.generation.plan import Plan, choose_labels


def labels(spec: str, num: int = 1000, num_classes: int = 10, seed: int = 0) -> np.ndarray:
    return choose_labels(spec, num=num, num_classes=num_classes, seed=seed)


def plan(**changes) -> Plan:
    settings = {
        "model": "S/8", "identity": {"weights": "0"}, "decoder": "pixels", "rounding": "truncated",
        "image_size": 8, "num": 10, "seed": 0, "labels": "uniform", "sampler": "ddpm",
        "options": {"eta": 0.0}, "steps": "10", "cfg": 1.5, "cfg_channels": "3",
        "cfg_interval": (0.1, 2.0), "cfg_times": None, "batch_size": 4, "precision": "fp32",
        "compile": False, "device": "cpu",
    }  # fmt: skip
    return Plan(**(settings | changes))


def test_batches_cover_every_index_once():
    indices = np.concatenate([plan().indices(batch) for batch in range(3)])
    np.testing.assert_array_equal(indices[:10], np.arange(10))


def test_last_batch_has_the_full_size():
    np.testing.assert_array_equal(plan().indices(2), [8, 9, 9, 9])


def test_plan_is_unchanged_by_json():
    import json

    assert json.loads(json.dumps(plan().as_json())) == plan().as_json()


@pytest.mark.parametrize("spec", ["uniform", "balanced"])
def test_label_of_an_image_does_not_depend_on_how_many_there_are(spec):
    np.testing.assert_array_equal(labels(spec, num=137), labels(spec, num=1000)[:137])


def test_balanced_labels_are_never_more_than_one_apart():
    for num in (1, 10, 137, 1000):
        counts = np.bincount(labels("balanced", num=num), minlength=10)
        assert counts.max() - counts.min() <= 1


def test_balanced_labels_are_another_permutation_in_every_round():
    rounds = labels("balanced").reshape(-1, 10)
    assert len({tuple(permutation) for permutation in rounds}) > 90


def test_uniform_labels_are_uniform():
    counts = np.bincount(labels("uniform", num=100_000), minlength=10)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9  # χ² with 9 degrees of freedom: p = 0.001


def test_sorted_labels_are_those_of_arange_repeated():
    np.testing.assert_array_equal(labels("sorted", num=40), np.arange(10).repeat(4))
    counts = np.bincount(labels("sorted", num=37), minlength=10)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(labels("sorted", num=37)) >= 0).all()


def test_labels_differ_by_seed():
    assert (labels("uniform", seed=1) != labels("uniform", seed=2)).mean() > 0.8


def test_a_number_is_the_class_of_all_images():
    assert set(labels("7")) == {7}


def test_labels_of_a_file_are_taken_in_order(tmp_path):
    (tmp_path / "labels.txt").write_text("3\n1 4\n", "ascii")
    np.testing.assert_array_equal(labels(str(tmp_path / "labels.txt"), num=3), [3, 1, 4])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1 2", "holds 2 labels for 3 images"),
        ("1 2 x", "cannot be read"),
        ("1 2 10", "class 10 does not exist"),
        ("1 2 -3", "class -3 does not exist"),
        ("1 2 3.0", "cannot be read"),
        ("1 2 " + "9" * 20, "cannot be read"),
        ("", "holds 0 labels for 3 images"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, content, complaint):
    (tmp_path / "labels.txt").write_text(content, "ascii")
    with pytest.raises(UsageError, match=complaint):
        labels(str(tmp_path / "labels.txt"), num=3)


def test_unknown_rule_for_labels_is_refused():
    with pytest.raises(UsageError, match="uniform, balanced"):
        labels("unifrom")


def test_a_file_of_labels_is_recorded_by_its_content(tmp_path):
    first, same, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    for path, text in ((first, "1 2 3 4"), (same, "1 2 3 4"), (other, "1 2 3 5")):
        path.write_text(text)
    settings = [plan(labels=str(path)).as_json() for path in (first, same, other)]
    assert settings[0] == settings[1] != settings[2]
