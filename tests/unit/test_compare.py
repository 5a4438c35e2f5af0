"""`compare`: what differs, what is really different, and what cannot be compared."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.container import ErrorbarContainer

import dit_eval
from dit_eval.cli import main
from dit_eval.errors import ResultError, UsageError
from dit_eval.report.history import draw_history
from dit_eval.results.check import check
from dit_eval.results.compare import compare
from dit_eval.results.compare_formats import render
from dit_eval.results.metric_names import ADM, HEADLINE, METRICS
from dit_eval.results.result import Result
from dit_eval.sampling.options import OPTIONS
from tests.handmade import handmade

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "compare.txt"
N = 400


def noise(seed: int, n: int = N) -> dict[str, np.ndarray]:
    """Influences of n images with a standard deviation of 1."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(n).astype(np.float32) for name in HEADLINE}


def similar(seed: int) -> dict[str, np.ndarray]:
    """Influences that share most of their variance with those of seed 0."""
    other = noise(seed)
    return {name: values + np.float32(0.3) * other[name] for name, values in noise(0).items()}


def sampled(
    label: str | None = None,
    *,
    date: str | None = "2026-11-26T09:30:00+00:00",
    influence: dict[str, np.ndarray] | None = None,
    error: float | None = 2 / N**0.5,
    plan: dict[str, Any] | None = None,
    **facts: Any,
) -> Result:
    """The result of a batch with these settings; its images share noise with those of the same seed."""
    result = handmade(n=N, error=error, **facts)
    plan = {**result.samples["plan"], "weights": "e" * 64, "num": N, "labels": "uniform", **(plan or {})}
    samples = {**result.samples, "plan": plan}
    influence = noise(0) if influence is None else influence
    return replace(result, label=label, date=date, samples=samples, influence=influence)


def examples() -> list[Result]:
    """Five rows of two models and, of another number of images, a sixth."""
    few = sampled("a tenth of the images", error=0.3)
    return [
        sampled("baseline", plan={"steps": "250"}),
        sampled("fewer steps", plan={"steps": "50"}, fid=9.9, recall=0.61, influence=similar(2)),
        sampled("ddim", plan={"steps": "50", "sampler": "ddim", "eta": 0.0}, fid=9.55, influence=similar(3)),
        sampled(None, cfg=1.5, fid=2.3, inception_score=240.0, influence=noise(1), plan={"seed": 1}),
        sampled(
            None, model="sit-xl-2-256", fid=9.2, sfid=6.5, date=None, error=None, plan={"sampler": "sde"}
        ),
        replace(few, samples={**few.samples, "n": 40}),
    ]


def marks(comparison: dit_eval.Comparison) -> list[dict[str, str]]:
    (group,) = comparison.groups
    return [{name: found.verdict for name, found in row.comparisons.items()} for row in group.rows]


def test_the_table_is_the_recorded_one() -> None:
    text = compare(*examples()).table()
    assert max(map(len, text.splitlines())) <= 80
    assert text + "\n" == GOLDEN.read_text("utf-8")


def test_settings_are_shown_if_they_differ_and_only_then() -> None:
    first, second = compare(*examples()).groups
    assert first.knobs == ("plan.model", "plan.cfg", "plan.sampler", "plan.steps", "plan.seed")
    assert second.knobs == ()
    same = compare(sampled("a"), sampled("b"))
    assert same.groups[0].knobs == ()


def test_options_that_one_sampler_lacks_are_shown_unless_they_are_its_defaults() -> None:
    dit = sampled("dit", model="digits", plan={"sampler": "ddpm"})

    def sit(label: str, **options: Any) -> Result:
        return sampled(label, model="digits-sit", plan={"sampler": "sde", **OPTIONS["sde"], **options})

    assert compare(dit, sit("sit")).groups[0].knobs == ("plan.model", "plan.sampler")
    changed = compare(dit, sit("sit", last_step="tweedie")).groups[0]
    assert changed.knobs == ("plan.model", "plan.sampler", "plan.last_step")
    both = compare(dit, sit("sit"), sit("heun", solver="heun")).groups[0]
    assert both.knobs == ("plan.model", "plan.sampler", "plan.solver")
    assert [row.knobs.get("plan.solver") for row in both.rows] == [None, "euler", "heun"]


def test_reasons_are_in_words() -> None:
    def against(images: str | None, weights: str, **plan: Any) -> Result:
        result = sampled("x", plan=plan)
        return replace(
            result,
            reference={**result.reference, "digest": images},
            protocol={**result.protocol, "weights": {"sha256": weights * 64, "official": False}},
        )

    (_, group) = compare(
        against(None, "c", cfg_times=None), against("d" * 64, "e", cfg_times="[0,0.7]")
    ).groups
    assert group.reasons == (
        f"weights of the feature network ({'c' * 12}… there, {'e' * 12}… here)",
        f"images of the reference (none there, {'d' * 12}… here)",
        "guidance interval in the network's time (none there, [0,0.7] here)",
    )


def test_weights_are_shown_unless_model_and_step_tell_them_apart() -> None:
    def checkpoint(label: str, weights: str) -> Result:
        return sampled(label, plan={"weights": weights * 64})

    steps = compare(checkpoint("step 100", "a"), checkpoint("step 200", "b"))
    assert steps.groups[0].knobs == ()
    unknown = compare(checkpoint("old", "a"), checkpoint("new", "b"))
    assert unknown.groups[0].knobs == ("plan.weights",)
    assert "aaaaaaaaaaaa…" in unknown.table()


def test_results_that_check_would_refuse_are_in_groups_of_their_own_with_the_reason() -> None:
    first, second = compare(*examples()).groups
    assert (len(first.rows), len(second.rows)) == (5, 1)
    assert first.reasons == ()
    assert second.reasons == ("number of images (400 there, 40 here)",)
    text = " ".join(compare(*examples()).table().split())
    assert "Not comparable with the first table: number of images (400 there, 40 here)." in text


def test_pairs_see_what_separate_intervals_cannot() -> None:
    baseline, slightly = sampled("a"), sampled("b", fid=9.65)
    changed = {**noise(0), "fid": noise(0)["fid"] * np.float32(1.1)}
    (_, paired) = marks(compare(baseline, replace(slightly, influence=changed)))
    assert paired["fid"] == "worse"
    (_, separate) = marks(compare(baseline, replace(slightly, influence=noise(1)), to="first"))
    assert separate["fid"] == "undecided"
    text = compare(baseline, replace(slightly, influence={})).table()
    assert "b †" in text
    assert "† Not compared in pairs" in text


def test_the_best_value_of_each_column_is_the_target() -> None:
    rows = [sampled("a", fid=5.0), sampled("b", fid=4.0, recall=0.1), sampled("c", fid=3.0, precision=0.1)]
    comparison = compare(*rows, to="best")
    (group,) = comparison.groups
    assert {metric: row.name for metric, row in group.targets.items()} == {
        "fid": "c",
        "sfid": "a",
        "inception_score": "a",
        "precision": "a",
        "recall": "a",
    }
    found = marks(comparison)
    assert [row.get("fid") for row in found] == ["worse", "worse", None]
    assert [row.get("recall") for row in found] == [None, "worse", "undecided"]
    text = comparison.table()
    assert "3.00*" in text  # surely
    assert text.count("*") == 2  # and in the legend: of equal numbers none is the best
    assert group.clearly_best("fid") is group.rows[2]
    assert group.clearly_best("precision") is None


def test_all_marks_of_a_table_of_equal_models_are_absent_in_95_percent() -> None:
    """Eight equally good models of independent noise: 35 comparisons, in at most 5 % any is real."""
    rng = np.random.default_rng(0)
    trials, false_alarms = 400, 0
    for _ in range(trials):
        rows = []
        for seed in range(8):
            images = rng.standard_normal((N, len(HEADLINE)))
            means = dict(zip(HEADLINE, 5 + images.mean(axis=0), strict=True))
            result = handmade(n=N, error=2 / N**0.5, **means)
            rows.append(
                replace(result, samples={**result.samples, "plan": {**result.samples["plan"], "seed": seed}})
            )
        false_alarms += any(
            verdict != "undecided" for row in marks(compare(*rows)) for verdict in row.values()
        )
    assert false_alarms / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


def test_a_metric_without_an_interval_is_shown_and_not_compared() -> None:
    comparison = compare(sampled("a"), sampled("b", error=None, fid=1.0))
    assert marks(comparison)[1] == {}
    assert "1.00" in comparison.table()


def test_cut_ends_of_intervals_change_neither_half_widths_nor_decisions() -> None:
    whole = [sampled("a", error=20.0), sampled("b", fid=4.0, error=20.0, influence=noise(1))]
    cut = [
        replace(
            result,
            intervals={n: {**ends, "low": max(0, ends["low"])} for n, ends in result.intervals.items()},
        )
        for result in whole
    ]
    assert cut[0].intervals["fid"]["low"] == 0 > whole[0].intervals["fid"]["low"]
    assert marks(compare(*cut)) == marks(compare(*whole))
    assert [result.half_width("fid") for result in cut] == pytest.approx([20.0, 20.0])
    assert check(*cut).comparisons == check(*whole).comparisons


def test_rows_are_in_order_of_their_training_steps() -> None:
    rows = [
        sampled(f"step {step}", fid=fid) for step, fid in ((400_000, 2.0), (50_000, 20.0), (100_000, 10.0))
    ]
    (group,) = compare(*rows, by="step").groups
    assert [row.training.step for row in group.rows] == [50_000, 100_000, 400_000]
    assert group.targets["fid"].name == "step 50000"
    with pytest.raises(UsageError, match=r"training step of baseline .* is not known"):
        compare(*rows, sampled("baseline"), by="step")


def test_what_is_given_twice_counts_once(tmp_path: Path) -> None:
    result = sampled("a")
    file = result.save(tmp_path / "a.json")
    (group,) = compare(file, tmp_path).groups
    assert len(group.rows) == 1
    (group,) = compare(result, result).groups
    assert len(group.rows) == 1


def test_a_folder_stands_for_its_results_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    for name, result in zip("ab", examples(), strict=False):
        (tmp_path / name).mkdir()
        result.save(tmp_path / name / "result.json")
    (tmp_path / "batch.json").write_text(json.dumps({"plan": sampled().samples["plan"], "digest": "0"}))
    assert compare(tmp_path).warnings == ()
    (tmp_path / "other.json").write_text("{}")
    found = compare(tmp_path)
    assert [row.name for row in found.groups[0].rows] == ["baseline", "fewer steps"]
    (warning,) = found.warnings
    assert re.match(r"Left out: .*other\.json: not a result", warning)
    with pytest.raises(ResultError, match=r"other\.json: not a result"):
        compare(tmp_path / "other.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no results to compare"):
        compare(tmp_path / "empty")


def test_of_a_search_the_results_of_the_last_round_and_the_fresh_ones_are_compared(tmp_path: Path) -> None:
    def save(name: str, n: int) -> None:
        result = sampled(name)
        replace(result, samples={**result.samples, "n": n}).save(tmp_path / "results" / f"{name}-n{n}.json")

    (tmp_path / "results").mkdir()
    for name, n in (("a", 100), ("b", 100), ("c", 100), ("a", 400), ("b", 400), ("fresh-a", 400)):
        save(name, n)
    state = {"races": [{"rounds": [{"n": 100}, {"n": 400}]}], "search": {}}
    (tmp_path / "sweep.json").write_text(json.dumps(state))
    for folder in (tmp_path, tmp_path / "results"):
        found = compare(folder)
        assert [[row.name for row in group.rows] for group in found.groups] == [["a", "b", "fresh-a"]]
        (warning,) = found.warnings
        assert re.match(r"Left out: 3 results of the search in .*, of fewer images than its last", warning)
    (tmp_path / "sweep.json").write_text('{"races": 3}')
    assert len(compare(tmp_path).groups) == 2
    assert "sweep.json: not a result" in compare(tmp_path).warnings[0]


def test_json_and_csv_hold_exact_numbers() -> None:
    comparison = compare(*examples())
    content = json.loads(comparison.to_json())
    assert comparison.to_json() == render(comparison, "json")
    assert content["groups"][1]["not_comparable_with_the_first_group"] == [
        "number of images (400 there, 40 here)"
    ]
    row = content["groups"][0]["rows"][1]
    assert row["label"] == "fewer steps"
    assert row["knobs"]["plan.steps"] == "50"
    recall = row["metrics"]["recall"]
    assert recall["value"] == 0.61
    assert recall["comparison"]["difference"] == 0.61 - 0.668
    assert recall["comparison"]["paired"]
    lines = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert [line["group"] for line in lines] == ["1"] * 5 + ["2"]
    assert float(lines[1]["recall"]) == 0.61
    assert lines[1]["recall_verdict"] == recall["comparison"]["verdict"]
    assert lines[5]["samples.n"] == "40"


def test_markdown_rows_have_as_many_cells_as_their_head() -> None:
    text = render(compare(sampled("a|b"), sampled("c", fid=1.0)), "markdown")
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {8}
    assert "1.00 ± 0.10 +" in rows[-1]


def test_latex_has_balanced_braces_equal_columns_and_escaped_text() -> None:
    label = r"50% of $x$ & y_1 #2 {z} \n ~^ <t>"
    text = render(compare(sampled(label), *examples()), "latex")
    scaled = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
    assert text.count(scaled) == 2
    bare = re.sub(r"\\[\\{}$&#%_]", "", text.replace(scaled, "{"))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#%_~^<>]", bare.replace("$^{", ""))
    assert text.isascii()
    tables = re.findall(
        r"\\begin\{tabular\}\{(l r*)\}(.*?)\\end\{tabular\}".replace(" ", ""), text, re.DOTALL
    )
    assert len(tables) == 2
    for columns, body in tables:
        rows = [row for row in body.splitlines() if row.endswith(r"\\")]
        assert {row.replace(r"\&", "").count("&") + 1 for row in rows} == {len(columns)}
    assert r"50\% of \$x\$ \& y\_1 \#2 \{z\} \textbackslash{}n" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_of_20_results_and_of_special_characters_compiles_and_fits_the_page(tmp_path: Path) -> None:
    many = [
        sampled(None, model=f"model-{i % 4}", cfg=1 + i // 4 / 4, fid=9 + i, plan={"steps": f"{i % 4}"})
        for i in range(20)
    ]
    labels = (r"50% of $x$ & y_1 #2 {z} \n ~^ <t> |a|", "naïve “α → β” FID∞ ≤ ω × ⌊x⌋ ± σ …")
    tables = [
        render(compare(*many, to="best"), "latex"),
        render(compare(*map(sampled, labels), *examples()), "latex"),
    ]
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text("\n".join([document, *tables, r"\end{document}"]), "utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert run.returncode == 0, run.stdout.decode(errors="replace")
    assert b"Overfull" not in run.stdout
    assert (tmp_path / "t.pdf").is_file()


def test_a_long_label_and_many_settings_fit_80_columns() -> None:
    names = ("steps", "sampler", "seed", "precision", "solver", "diffusion", "prediction", "labels_of_a_plan")
    rows = [
        sampled(f"{'a label of many words ' * 3}{i}", fid=123.456, plan=dict.fromkeys(names, f"value {i}"))
        for i in range(2)
    ]
    for row in rows:
        row.samples["plan"].pop("labels_of_a_plan")
    text = compare(*rows).table()
    assert max(map(len, text.splitlines())) <= 80
    assert "precision=value 1" in " ".join(text.split())


def test_a_history_has_a_panel_for_each_metric_and_a_curve_with_a_band_for_each_run() -> None:
    rows = [
        sampled(f"run {run}, step {step}k", fid=fid * scale, plan={"weights": f"{run}{step}" * 16})
        for run, scale in (("a", 1), ("b", 2))
        for step, fid in ((100, 30.0), (400, 2.0), (200, 9.0))
    ]
    figure = draw_history(compare(*rows).groups)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_ylabel() for axes in panels] == [METRICS[name].title for name in ADM]
    for axes in panels:
        assert [container.get_label() for container in axes.containers] == ["run a", "run b"]
        assert len(axes.collections) == 2 * 2  # a band and error bars for each run
    drawn = panels[0].containers[1]
    assert isinstance(drawn, ErrorbarContainer)
    steps, values = drawn.lines[0].get_data()
    np.testing.assert_array_equal(steps, [100_000, 200_000, 400_000])
    np.testing.assert_array_equal(values, [60.0, 18.0, 4.0])
    (legend,) = (legend for axes in figure.axes if (legend := axes.get_legend()))
    assert [text.get_text() for text in legend.get_texts()] == ["run a", "run b"]


def test_the_command_prints_and_plots(tmp_path: Path) -> None:
    for i, step in enumerate((100, 200)):
        sampled(f"step {step}", fid=9.0 - i).save(tmp_path / f"{i}.json")
    run = CliRunner().invoke(
        main, ["compare", str(tmp_path), "--by", "step", "--plot", str(tmp_path / "history.svg")]
    )
    assert run.exit_code == 0, run.output
    assert run.stdout.rstrip() == compare(tmp_path, by="step").table()
    assert (tmp_path / "history.svg").read_text().startswith("<?xml")
    sampled("x").save(tmp_path / "0.json")
    run = CliRunner().invoke(main, ["compare", str(tmp_path), "--plot", str(tmp_path / "history.svg")])
    assert isinstance(run.exception, UsageError)
    assert "two different steps" in str(run.exception)


def test_20_results_are_compared_without_torch_scipy_or_matplotlib(tmp_path: Path) -> None:
    for i in range(20):
        sampled(None, model=f"model-{i % 4}", plan={"seed": i}, fid=5 + i).save(tmp_path / f"{i:02d}.json")
    program = (
        "import sys\n"
        "from dit_eval.cli import main\n"
        f"main(['compare', {str(tmp_path)!r}], standalone_mode=False)\n"
        "loaded = {'torch', 'scipy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("model-3") == 5
