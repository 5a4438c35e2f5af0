"""The table of metrics: every entry is named, and what cannot be computed is missing for a reason."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest

import dit_eval
from dit_eval.commands.fid import fid
from dit_eval.evaluation import metric_table
from dit_eval.evaluation.metric_table import DEFAULT, METRIC_FUNCTIONS, OPTIONAL, Measurement, MetricInputs
from dit_eval.results.metric_names import ADM, HEADLINE, METRICS
from dit_eval.results.result import Result

RNG = np.random.default_rng(0)


def evaluated(folder: Path, reference: str | Path = "digits") -> Result:
    images = RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "samples.npz", images)
    result = dit_eval.evaluate(folder / "samples.npz", reference, device="cpu", protocol="digits")
    assert result is not None
    return result


def test_every_metric_has_a_function_and_a_name() -> None:
    assert list(METRIC_FUNCTIONS) == list(METRICS)
    assert {*METRIC_FUNCTIONS} - {*DEFAULT} == {name for names in OPTIONAL.values() for name in names}
    assert {*DEFAULT} - {name for name in METRICS if METRICS[name].parent} == {*ADM}
    assert {METRICS[name].parent for name in METRICS} <= {"", *HEADLINE}
    assert all(METRICS[name].column for name in HEADLINE)


def test_the_command_offers_every_optional_metric() -> None:
    (option,) = [option for option in fid.params if option.name == "further_metrics"]
    assert isinstance(option.type, click.Choice)
    assert [*option.type.choices] == [*OPTIONAL]


def test_titles_say_which_way_is_better() -> None:
    assert (METRICS["fid"].title, METRICS["recall"].title) == ("FID ↓", "Recall ↑")
    assert (METRICS["fid"].column_title, METRICS["precision"].column_title) == ("FID↓", "Prec.↑")
    assert METRICS["recall_float16"].title == "ADM's float16"


def test_a_new_metric_is_one_function_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_norm(inputs: MetricInputs) -> Measurement:
        norms = np.linalg.norm(inputs.samples.features, axis=1)
        return Measurement(float(norms.mean()), "itself", norms - norms.mean())

    monkeypatch.setitem(METRIC_FUNCTIONS, "mean_norm", mean_norm)
    monkeypatch.setattr("dit_eval.evaluation.evaluator.DEFAULT", (*DEFAULT, "mean_norm"))
    result = evaluated(tmp_path)
    ends = result.intervals["mean_norm"]
    assert ends["low"] < result.metrics["mean_norm"] < ends["high"]
    assert Result.from_json(result.to_json()).metrics["mean_norm"] == result.metrics["mean_norm"]


def test_statistics_alone_leave_precision_and_recall_missing(tmp_path: Path) -> None:
    rows = RNG.standard_normal((200, 64 + 128))
    pool, spatial = rows[:, :64], rows[:, 64:]
    statistics = {
        "mu": pool.mean(0),
        "sigma": np.cov(pool.T),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial.T),
    }
    np.savez(tmp_path / "ref.npz", **statistics)
    result = evaluated(tmp_path, tmp_path / "ref.npz")
    assert {*result.missing} == {"precision", "recall", "precision_float16", "recall_float16"}
    assert {*result.metrics} == {*metric_table.DEFAULT} - {*result.missing}
    assert sum("absent" in line for line in result.table().splitlines()) == 2  # the headline metrics
    assert result.measured_against["fid"] == "stored statistics (n not recorded in the file)"
