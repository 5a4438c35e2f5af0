"""The figures of a search, and of FID against the compute of sampling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dit_eval.errors import ResultError
from dit_eval.report.sampling_compute import plot_sampling_compute
from dit_eval.report.sweep_figure import plot_sweep
from dit_eval.results.metric_comparison import MetricComparison
from dit_eval.results.result import Result
from dit_eval.search.outcome import Candidate, Sweep, Verdict
from tests.command import assert_one_sentence, dit_eval
from tests.handmade import handmade


def measured(fid: float, steps: str, gmacs: float = 2.0, model: str = "XL/2", **settings: Any) -> Result:
    result = handmade(model=model, fid=fid, gmacs=gmacs, error=0.1)
    plan = {**result.samples["plan"], "steps": steps, **settings}
    return replace(result, samples={**result.samples, "plan": plan, "passes_per_image": 2.0 * int(steps)})


def comparison(difference: float, half_width: float) -> MetricComparison:
    return MetricComparison(
        name="fid",
        value=5 + difference,
        baseline=5,
        error=half_width / 2,
        half_width=half_width,
        tolerance=0,
        paired=True,
    )


def candidate(
    verdict: Verdict, fid: float, difference: float, result: Result | None = None, **values: Any
) -> Candidate:
    return Candidate(
        values=values,
        result=result or measured(fid, values["steps"]),
        relative=comparison(difference, 0.0 if verdict == "winner" else 0.5),
        verdict=verdict,
    )


def search(*candidates: Candidate, **vary: Any) -> Sweep:
    return Sweep(
        search={"vary": vary, "metric": "fid", "num": 50_000},
        races=[],
        candidates=candidates,
        fresh=candidates[0].result,
        optimism=comparison(0, 1),
    )


GRID = search(
    candidate("winner", 5, 0, steps="50", sampler="ddim"),
    candidate("tied", 5.2, 0.2, steps="20", sampler="ddim"),
    candidate("dropped", 90, 55, steps="50", sampler="ddpm"),
    candidate("dropped", 95, 65, steps="20", sampler="ddpm"),
    steps=["20", "50"],
    sampler=["ddpm", "ddim"],
)


def test_a_search_is_shown_in_a_line_with_the_number_to_report() -> None:
    fresh = handmade(fid=5.5, error=0.1)
    assert repr(replace(GRID, fresh=fresh)) == (
        "Sweep(FID 5.50 ± 0.10 of steps=50, sampler=ddim, best of 4 settings, n=50,000)"
    )


def texts(path: Path) -> set[str]:
    return {part.rpartition(">")[2] for part in path.read_text("utf-8").split("</text>")[:-1]}


def test_a_panel_for_each_varied_setting_and_one_for_the_cost(tmp_path: Path) -> None:
    drawn = texts(plot_sweep(tmp_path / "sweep.svg", GRID))
    assert {"steps", "20", "50", "sampler", "ddpm", "ddim", "FID ↓", "winner", "tied", "dropped"} <= drawn
    assert "Gflops (multiply-adds) per image; dotted: Pareto front" in drawn
    plot_sweep(tmp_path / "again.svg", GRID)
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "sweep.svg").read_bytes()


def test_without_a_record_of_the_cost_there_is_no_panel_for_it(tmp_path: Path) -> None:
    unknown = handmade(fid=5, error=0.1)
    found = search(
        candidate("winner", 5, 0, unknown, steps="50", sampler="ddim"),
        *GRID.candidates[1:],
        steps=["20", "50"],
        sampler=["ddpm", "ddim"],
    )
    assert found.gflops is None
    assert not any("Gflops" in text for text in texts(plot_sweep(tmp_path / "sweep.svg", found)))


def test_sampling_compute_has_a_curve_for_each_model_and_names_the_steps(tmp_path: Path) -> None:
    results = [
        measured(fid, steps, gmacs, model)
        for model, gmacs, fids in (("S/2", 6.1, (90, 70, 68)), ("XL/2", 118.6, (30, 10, 9)))
        for fid, steps in zip(fids, ("16", "64", "256"), strict=True)
    ]
    drawn = texts(plot_sampling_compute(tmp_path / "figure.svg", results))
    assert {"S/2", "XL/2", "16", "64", "256", "FID ↓", "Gflops (multiply-adds) per image, all steps"} <= drawn
    content = (tmp_path / "figure.svg").read_text("utf-8")
    assert content.count(">64</text>") == 2


def test_curves_of_one_model_are_named_by_what_differs(tmp_path: Path) -> None:
    results = [measured(9, steps, cfg=cfg) for steps in ("20", "50") for cfg in (1.0, 1.5)]
    drawn = (plot_sampling_compute(tmp_path / "figure.svg", results)).read_text("utf-8")
    assert "1.00" in drawn
    assert "1.50" in drawn


def test_results_without_cost_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="does not record the cost of sampling"):
        plot_sampling_compute(tmp_path / "figure.svg", [handmade()])


def test_the_command_takes_folders(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert_one_sentence(dit_eval("plot", tmp_path / "results", "--figure", "sampling-compute"))
    for steps in ("20", "50"):
        measured(9, steps).save(tmp_path / "results" / f"{steps}.json")
    (tmp_path / "results" / "other.json").write_text("{}")
    run = dit_eval("plot", tmp_path / "results", tmp_path / "results" / "20.json", "--out", tmp_path / "new")
    assert run.returncode == 0, run.stderr
    assert f"{tmp_path / 'new' / 'fid-results.png'}\n" in run.stdout
    assert "Warning: Left out: " in run.stderr


def test_the_command_draws_only_that_figure(tmp_path: Path) -> None:
    measured(9, "20").save(tmp_path / "a.json")
    run = dit_eval("plot", tmp_path / "a.json", "--figure", "sampling-compute", "--out", tmp_path / "new")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{tmp_path / 'new' / 'sampling-compute.png'}\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sampling-compute.png"]
    assert_one_sentence(dit_eval("plot", tmp_path / "a.json", "--figure", "fid", "--out", tmp_path))
