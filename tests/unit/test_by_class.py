"""Precision and recall by class: they add up, belong to the right images, and are shown, few or many."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dit_eval.evaluation.pipeline import evaluate
from dit_eval.metrics.by_class import inside_by_class
from dit_eval.report.classes import ClassShare, by_class, class_figures
from dit_eval.report.page import write_report
from dit_eval.results.result import Result
from tests.handmade import handmade

SIZE = 8


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1))
def test_each_class_counts_its_own_images_and_together_they_are_all(images) -> None:
    inside, labels = (np.array(column) for column in zip(*images, strict=True))
    found = inside_by_class(inside.astype(bool), labels)
    assert found == {
        "label": sorted({label for _, label in images}),
        "n": [sum(image_label == label for _, image_label in images) for label in found["label"]],
        "inside": [
            sum(is_inside for is_inside, image_label in images if image_label == label)
            for label in found["label"]
        ],
    }


def far_and_near(path: Path, far: range, labels: np.ndarray | None, n: int = 40) -> Path:
    """The same dark noise in every file, but for the images `far`, which are white and unlike any other."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(0, 100, (n, SIZE, SIZE, 1), dtype=np.uint8), 3, axis=3)
    images[list(far)] = 255
    known: dict[str, Any] = {} if labels is None else {"arr_1": labels}
    np.savez(path, arr_0=images, **known)
    return path


def measured(samples: Path, reference: Path, **options: Any) -> Result:
    result = evaluate(samples, reference, protocol="digits", device="cpu", **options)
    assert result is not None
    return result


def test_precision_is_of_the_samples_classes_and_recall_of_the_references(tmp_path: Path) -> None:
    rare = np.where(np.arange(40) < 10, 7, 3)
    samples = far_and_near(tmp_path / "samples.npz", range(10), rare)
    result = measured(samples, far_and_near(tmp_path / "ref.npz", range(0), 5 + np.arange(40) % 2))
    assert result.classes["precision"]["label"] == [3, 7]
    assert result.classes["precision"]["n"] == [30, 10]
    assert result.classes["precision"]["inside"] == [30, 0]  # class 7 is white
    assert result.classes["recall"]["label"] == [5, 6]
    for name, lists in result.classes.items():
        assert sum(lists["inside"]) / sum(lists["n"]) == pytest.approx(result.metrics[name])


def test_labels_are_those_of_the_file_even_if_its_features_are_cached_from_another(tmp_path: Path) -> None:
    reference = far_and_near(tmp_path / "ref.npz", range(0), None)
    result, relabelled = (
        measured(far_and_near(tmp_path / f"{name}.npz", range(10), labels), reference)
        for name, labels in (("labels", np.arange(40) // 10), ("reversed", np.arange(40)[::-1] // 10))
    )
    assert relabelled.samples["cached"]
    assert result.classes["precision"]["inside"] == relabelled.classes["precision"]["inside"][::-1]
    assert result.classes["precision"]["inside"][0] == 0
    assert "recall" not in result.classes


@pytest.mark.parametrize("labels", [None, np.arange(39), np.arange(40.0), np.eye(40, dtype=int)])
def test_without_a_label_for_each_image_there_are_no_classes_and_no_warning(labels, tmp_path) -> None:
    samples = far_and_near(tmp_path / "samples.npz", range(10), labels)
    result = measured(samples, far_and_near(tmp_path / "ref.npz", range(0), None))
    assert result.classes == {}
    assert not any("label" in warning for warning in result.warnings)
    write_report(tmp_path / "report.html", [result])
    assert "by class" not in (tmp_path / "report.html").read_text("utf-8")


def test_arrays_have_no_classes_but_their_reference_has(tmp_path: Path) -> None:
    reference = far_and_near(tmp_path / "ref.npz", range(0), np.arange(40) % 4)
    with np.load(far_and_near(tmp_path / "samples.npz", range(0), None)) as samples:
        result = measured([samples["arr_0"]], reference)  # type: ignore[arg-type]
    assert list(result.classes) == ["recall"]


def result_of(classes: Mapping[str, Mapping[str, list[int]]], cfg: float = 1.0) -> Result:
    return replace(handmade(cfg=cfg, n=10_000), classes=classes)


def some_classes(count: int, n: int = 10) -> dict[str, list[int]]:
    inside = np.random.default_rng(0).binomial(n, 0.7, count)
    return {"label": list(range(100, 100 + count)), "n": [n] * count, "inside": inside.tolist()}


def test_classes_come_back_from_json_in_which_a_list_takes_one_line() -> None:
    result = result_of({"precision": some_classes(1000), "recall": some_classes(1000)})
    text = result.to_json()
    assert Result.from_json(text) == result
    assert len(text.splitlines()) < 100


def test_a_result_that_was_written_without_classes_is_read() -> None:
    fields = json.loads(handmade().to_json())
    del fields["classes"]
    assert Result.from_json(json.dumps(fields)) == handmade()


def test_few_classes_are_shown_one_by_one() -> None:
    drawn = class_figures([result_of({"precision": some_classes(20)}, cfg) for cfg in (1.0, 1.5)])
    assert list(drawn) == ["precision-classes"]
    (axes,) = drawn["precision-classes"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(100 + i) for i in range(20)]
    assert [len(np.asarray(line.get_ydata())) for line in axes.get_lines()] == [20, 20]


def test_many_classes_are_shown_as_a_rising_curve_and_the_ten_lowest(tmp_path: Path) -> None:
    many = some_classes(1000)
    many["inside"][345] = 0
    result = result_of({"recall": many})
    (axes,) = class_figures([result])["recall-classes"].axes
    found, alike = (np.asarray(line.get_ydata()) for line in axes.get_lines())
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0 < alike[0]
    assert found[1:] == pytest.approx(alike[1:], abs=0.11)  # they are alike: within one image of ten
    write_report(tmp_path / "report.html", [result])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Precision and recall by class" in page
    listed = re.findall(r'<th scope="row">class (\d+)</th><td>([0-9.]+)</td>', page)
    assert listed[0] == ("445", "0.00")
    assert len(listed) == 10


def test_the_lowest_class_is_surely_low_and_one_image_makes_no_class_the_lowest() -> None:
    classes = {"label": [1, 2, 3, 4], "n": [1, 2, 50, 50], "inside": [0, 0, 10, 45]}
    (shares,) = by_class([result_of({"precision": classes})])["precision"]
    assert [share.label for share in shares.lowest()] == [3, 2, 4]
    low, high = binomtest(10, 50).proportion_ci(method="wilson")
    assert shares.lowest(1) == [ClassShare(3, 0.2, low, high, n=50)]


def test_many_results_have_a_panel_each() -> None:
    results = [result_of({"precision": some_classes(20)}, 1 + number / 4) for number in range(4)]
    axes = class_figures(results)["precision-classes"].axes
    overall = sum(some_classes(20)["inside"]) / 200
    assert [panel.get_title(loc="left") for panel in axes] == [
        f"{overall:.3f}  {result.name}" for result in results
    ]


def test_the_curve_of_chance_has_the_spread_of_a_binomial_share() -> None:
    (shares,) = by_class([result_of({"recall": some_classes(1000, n=50)})])["recall"]
    alike = shares.expected_if_homogeneous()
    p = shares.overall
    assert alike.mean() == pytest.approx(p, abs=1e-3)
    assert alike.std() == pytest.approx(np.sqrt(p * (1 - p) / 50), rel=0.02)


def test_a_files_name_in_a_figure_is_cut_and_never_read_as_a_formula() -> None:
    name = f"_{'long' * 20}$b$.npz"
    result = replace(handmade(model=None, samples=name), classes={"precision": some_classes(3)})
    figure = class_figures([result])["precision-classes"]
    figure.savefig("/dev/null", format="svg")
    (text,) = figure.legends[0].get_texts()
    assert text.get_text().endswith("long$b$.npz")
    assert len(text.get_text()) < 50
