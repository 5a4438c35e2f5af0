"""Names of results say what differs, and training steps are read from labels and file names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dit_eval.report.figures import figures
from dit_eval.report.plots import save_figures
from dit_eval.results.knobs import TrainingStep, training_step
from dit_eval.results.names import curve_names, distinct_names, labels_by_name, with_distinct_names
from dit_eval.results.result import Result
from dit_eval.results.table2 import table2
from tests.handmade import handmade


def planned(label: str | None = None, *, cfg: float = 1.5, **plan: Any) -> Result:
    result = handmade(model="digits", cfg=cfg)
    samples = {**result.samples, "plan": {**result.samples["plan"], **plan}}
    return replace(result, samples=samples, label=label)


def files(*paths: str) -> list[Result]:
    return [handmade(model=None, samples=path) for path in paths]


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([planned()], ["digits (cfg=1.50)"]),
        ([planned(), planned(cfg=1.375)], ["digits (cfg=1.50)", "digits (cfg=1.375)"]),
        (
            [planned(steps="30"), planned(steps="50")],
            ["digits (cfg=1.50, steps=30)", "digits (cfg=1.50, steps=50)"],
        ),
        (
            [planned(cfg=1.0), planned(steps="30"), planned(steps="50", seed=1)],
            ["digits (cfg=1.00)", "digits (cfg=1.50, steps=30)", "digits (cfg=1.50, steps=50)"],
        ),
        ([planned("a"), planned("b")], ["a", "b"]),
        ([planned("a"), planned("a", seed=1)], ["a (seed=0)", "a (seed=1)"]),
        ([planned("two\nlines"), planned("b")], ["two lines", "b"]),
        (files("a/batch.npz"), ["batch.npz"]),
        (files("a/batch.npz", "b/batch.npz"), ["a/batch.npz", "b/batch.npz"]),
        (files("/x/a/1.npz", "/x/b/1.npz", "/x/2.npz"), ["a/1.npz", "b/1.npz", "2.npz"]),
        (files("1.npz", "b/1.npz"), ["1.npz", "b/1.npz"]),
        (files("arrays", "arrays"), ["arrays #1", "arrays #2"]),
    ],
)
def test_a_name_says_what_differs_and_no_more(results: list[Result], names: list[str]) -> None:
    assert distinct_names(results) == names
    assert distinct_names(with_distinct_names(results)) == names


def test_references_and_protocols_tell_names_apart() -> None:
    results = [handmade(model=None, reference="a.npz"), handmade(model=None, reference="b.npz")]
    assert distinct_names(results) == ["batch.npz (reference=a.npz)", "batch.npz (reference=b.npz)"]
    results = [handmade(model=None), handmade(model=None, protocol="clean")]
    assert distinct_names(results) == ["batch.npz (protocol=adm)", "batch.npz (protocol=clean)"]


def test_names_need_not_repeat_what_stands_beside_them() -> None:
    results = [planned(steps="30"), planned(steps="50"), planned(steps="50", seed=1)]
    shown = ("plan.cfg", "plan.steps")
    assert distinct_names(results, shown) == ["digits", "digits (seed=0)", "digits (seed=1)"]


def test_tables_have_the_distinct_names() -> None:
    (table,) = table2([planned(steps="30"), planned(steps="50")]).tables
    assert [row.name for row in table.rows] == ["digits (cfg=1.50, steps=30)", "digits (cfg=1.50, steps=50)"]


def test_30_and_50_steps_are_two_curves_of_a_figure_and_two_seeds_are_one() -> None:
    results = [planned(cfg=cfg, steps=steps, seed=cfg > 1) for steps in ("30", "50") for cfg in (1.0, 1.5)]
    (axes,) = figures(results)["fid-guidance"].axes
    measured = [c.get_label() for c in axes.containers if "published" not in str(c.get_label())]
    assert measured == ["digits (steps=30), 50K images", "digits (steps=50), 50K images"]


def test_a_curve_has_the_label_that_its_results_share(tmp_path: Path) -> None:
    scales = (1.0, 1.5)
    ours = [replace(planned(cfg=cfg, steps="30"), label="ours") for cfg in scales]
    others = [replace(planned(cfg=cfg, steps="50"), label=f"other {cfg}") for cfg in scales]
    results = [*ours, *others]
    (axes,) = figures(with_distinct_names(results), labels_by_name(results))["fid-guidance"].axes
    drawn = [c.get_label() for c in axes.containers if "published" not in str(c.get_label())]
    assert drawn == ["ours, 50K images", "digits, 50K images"]
    save_figures(tmp_path, results, "svg")
    assert "ours, 50K images" in (tmp_path / "fid-guidance.svg").read_text("utf-8")


def test_two_curves_of_one_label_are_told_apart() -> None:
    results = [replace(planned(steps=steps), label="ours") for steps in ("30", "50")]
    assert curve_names(results, ["ours", "ours"], ["plan.cfg"]) == ["ours (steps=30)", "ours (steps=50)"]


@pytest.mark.parametrize(
    ("label", "file", "samples", "found"),
    [
        ("step 400000", None, "b.npz", TrainingStep(400_000, "")),
        ("run a, step 400k", None, "b.npz", TrainingStep(400_000, "run a")),
        ("STEP=2M ema", None, "b.npz", TrainingStep(2_000_000, "ema")),
        (None, "runs/a/step-400000.json", "b.npz", TrainingStep(400_000, "a")),
        (None, "runs/a/step-400000.result.json", "b.npz", TrainingStep(400_000, "a")),
        (None, "runs/a-step_0400000-cfg1.5.json", "b.npz", TrainingStep(400_000, "a cfg1.5")),
        (None, "runs/a/global_step100/result.json", "b.npz", TrainingStep(100, "global")),
        (None, "runs/a/0400000.json", "b.npz", TrainingStep(400_000, "a")),
        (None, "result.json", "a/step-5.npz", TrainingStep(5, "a")),
        ("baseline", "step-10.json", "b.npz", TrainingStep(10, "runs")),
        ("50 sampling steps", None, "b.npz", TrainingStep()),
        (None, "runs/steps-30.json", "b.npz", TrainingStep()),
        (None, "runs/timestep-30.json", "20261126.npz", TrainingStep()),
        (None, "runs/30.json", "batch.npz", TrainingStep()),
    ],
)
def test_a_training_step_is_read_from_the_label_or_a_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    label: str | None,
    file: str | None,
    samples: str,
    found: TrainingStep,
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    result = replace(handmade(samples=samples), label=label)
    assert training_step(result, Path(file) if file else None) == found
