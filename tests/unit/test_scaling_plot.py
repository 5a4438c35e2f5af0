"""The scaling figure, and the results from which it is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner
from PIL import Image

from dit_eval.cli import main
from dit_eval.cost.table import flop_rows
from dit_eval.errors import ResultError, UsageError
from dit_eval.report.figures import figures, svg
from dit_eval.report.scaling import plot_scaling
from tests.handmade import handmade


def test_the_plot_names_all_twelve_models(tmp_path):
    plot_scaling(tmp_path / "scaling.svg", flop_rows())
    drawn = (tmp_path / "scaling.svg").read_text("utf-8")
    assert all(f">{size}/{patch}</text>" in drawn for size in ("S", "B", "L", "XL") for patch in (8, 4, 2))
    assert "FID" not in drawn


def test_results_add_the_reports_own_figure_of_fid_against_gflops(tmp_path):
    results = [handmade(cfg=cfg, fid=fid, gmacs=80 * cfg) for cfg, fid in ((1.0, 9.5), (1.5, 2.2))]
    plot_scaling(tmp_path / "scaling.svg", flop_rows(), results)
    drawn = (tmp_path / "scaling.svg").read_text("utf-8")
    words = svg(figures(results)["fid-gflops"]).split("<text")[1:]
    labels = {word[word.index(">") + 1 : word.index("</text>")] for word in words}
    assert {"dit-xl-2-256, 50K images", "DiT-XL/2 at 256, as published", "FID ↓"} <= labels
    assert [label for label in labels if f">{label}</text>" not in drawn] == []


def test_results_that_cannot_be_compared_have_panels_of_their_own(tmp_path):
    results = [handmade(), handmade(model="digits", size=8, n=500, reference="digits"), handmade(cfg=1.5)]
    plot_scaling(tmp_path / "scaling.svg", flop_rows(), results)
    drawn = (tmp_path / "scaling.svg").read_text("utf-8")
    assert drawn.count(">FID ↓</text>") == 2
    assert drawn.count(">500 images of 8×8 against digits, protocol adm</text>") == 1


def test_a_name_is_no_formula(tmp_path):
    plot_scaling(tmp_path / "scaling.svg", flop_rows(), [handmade(model=r"$\frac{", n=500)])
    assert r">$\frac{, 500 images</text>" in (tmp_path / "scaling.svg").read_text("utf-8")


def test_a_model_of_any_architecture_and_image_size_has_its_place(tmp_path):
    plot_scaling(tmp_path / "scaling.svg", flop_rows(), [handmade(model="digits", size=8, n=500)])
    assert "digits, 500 images" in (tmp_path / "scaling.svg").read_text("utf-8")


def test_the_same_figure_is_the_same_file(tmp_path):
    for suffix in ("svg", "pdf"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
        for path in (first, second):
            plot_scaling(path, flop_rows(), [handmade()])
        assert first.read_bytes() == second.read_bytes()


def test_the_command_writes_a_picture_and_says_where(tmp_path):
    out = tmp_path / "scaling.png"
    handmade().save(tmp_path / "result.json")
    arguments = ["flops", "plot", str(tmp_path / "result.json"), "--out", str(out)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.stdout == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"


def test_results_without_model_or_fid_are_refused(tmp_path):
    for result in (handmade(model=None), replace(handmade(), metrics={})):
        with pytest.raises(ResultError, match=r"batch\.npz does not record its model, or has no FID"):
            plot_scaling(tmp_path / "scaling.svg", flop_rows(), [result])
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_or_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        plot_scaling(tmp_path / "scaling.gif", flop_rows())
    with pytest.raises(ResultError, match="cannot be written: No such file"):
        plot_scaling(tmp_path / "absent" / "scaling.svg", flop_rows())
