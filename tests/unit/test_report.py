"""The report: one file that makes no network requests, and its figures as PNG files."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from dit_eval.cli import main
from dit_eval.errors import ResultError
from dit_eval.report.figures import FIGURES, figures, svg
from dit_eval.report.page import write_report
from dit_eval.report.pictures import draw_sheet
from dit_eval.report.plots import save_figures
from dit_eval.results.metric_names import METRICS as METRIC_NAMES
from dit_eval.results.result import Result
from tests.handmade import handmade

GUIDED = [
    handmade(cfg=cfg, fid=fid, precision=precision, recall=recall, error=0.03, gmacs=gmacs)
    for cfg, fid, precision, recall, gmacs in (
        (1.0, 9.6, 0.67, 0.67, 118.6),
        (1.25, 3.2, 0.76, 0.62, 118.6),
        (1.5, 2.3, 0.83, 0.57, 29.1),
    )
]
SCRIPT = "<script>alert('$\\frac{\"&')</script>"  # neither HTML nor mathtext
SIZE, N = 8, 40


def save_batch(path: Path, classes: int = 4) -> Path:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, N)
    images = np.broadcast_to(40 * labels[:, None, None, None], (N, SIZE, SIZE, 3)).astype(np.uint8)
    np.savez(path, arr_0=images, arr_1=labels)
    return path


def small(tmp_path: Path, **facts: Any) -> Result:
    """A result whose samples and reference exist."""
    sides: dict[str, Any] = {
        "samples": save_batch(tmp_path / "batch.npz"),
        "reference": save_batch(tmp_path / "ref.npz"),
    }
    return handmade(n=N, size=SIZE, reference_n=N, **sides | facts)


def test_the_page_holds_table_figures_pictures_and_provenance_and_no_address_to_ask(tmp_path) -> None:
    results = [small(tmp_path, cfg=1 + number / 2, gmacs=1 + number) for number in range(2)]
    write_report(tmp_path / "report.html", results, title="A & B")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<title>A &amp; B</title>" in page
    assert page.count("<svg") == len(FIGURES)
    assert page.count('<img src="data:image/png;base64,') == 3 * 4  # two batches and the reference, 4 classes
    assert "adm-fingerprint" in page
    assert "40 images, not 50,000" in page
    assert "something to know" in page
    asked = re.findall(r"""(?<![\w-])(?:src|href)="([^"]*)"|url\(["']?([^)]*)""", page)
    assert asked
    assert [address for address in map("".join, asked) if not address.startswith(("data:", "#"))] == []
    assert [path.name for path in tmp_path.glob("*.html*")] == ["report.html"]


def test_the_papers_rows_are_in_the_page_only_with_a_comparable_result(tmp_path) -> None:
    write_report(tmp_path / "report.html", GUIDED)
    assert "BigGAN-deep" in (tmp_path / "report.html").read_text("utf-8")
    write_report(tmp_path / "report.html", [small(tmp_path)])
    assert "BigGAN-deep" not in (tmp_path / "report.html").read_text("utf-8")


def test_the_page_does_without_what_is_not_there(tmp_path) -> None:
    write_report(tmp_path / "report.html", [handmade(model=None, samples=tmp_path / "gone.npz")])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<svg" not in page
    assert "<img" not in page
    assert "gone.npz" in page


def test_no_results_or_no_folder_are_refused_and_nothing_is_written(tmp_path) -> None:
    for results, out, words in (
        ([], "report.html", "at least one result"),
        ([handmade()], "absent/report.html", "cannot be written: No such file"),
    ):
        with pytest.raises(ResultError, match=words):
            write_report(tmp_path / out, results)
    assert list(tmp_path.iterdir()) == []


def series(figure: Figure) -> dict[str, tuple[list[float], float]]:
    """Label → y values, and half of the height of the first error bar or 0 without one."""
    (axes,) = figure.axes
    found = {}
    for drawn in axes.containers:
        assert isinstance(drawn, ErrorbarContainer)
        line, _, bars = drawn.lines
        low, high = bars[-1].get_segments()[0][:, 1] if bars else (0, 0)
        found[str(drawn.get_label())] = (np.asarray(line.get_ydata()).tolist(), round((high - low) / 2, 6))
    return found


def test_figures_show_our_points_with_their_intervals_and_the_papers_where_they_measure_the_same() -> None:
    fids = series(figures(GUIDED)["fid-guidance"])
    assert fids["dit-xl-2-256, 50K images"] == ([9.6, 3.2, 2.3], 0.03)
    assert fids["DiT-XL/2 at 256, as published"] == ([9.62, 3.22, 2.27], 0)
    scores = series(figures(GUIDED)["precision-recall"])["dit-xl-2-256, 50K images"]
    assert scores == ([0.67, 0.76, 0.83], 0.03)


@pytest.mark.parametrize("facts", [{"n": 10_000}, {"protocol": "clean"}, {"size": 8, "reference": "digits"}])
def test_published_points_share_no_axis_with_results_that_check_would_not_compare(facts: dict) -> None:
    for name, figure in figures([handmade(cfg=cfg, gmacs=cfg, **facts) for cfg in (1, 1.5)]).items():
        assert [label for label in series(figure) if "published" in label] == [], name


def test_published_points_are_those_of_the_results_image_size() -> None:
    results = [handmade(cfg=cfg, size=512, reference="imagenet-512", gmacs=525 * cfg) for cfg in (1, 1.5)]
    labels = {label for figure in figures(results).values() for label in series(figure)}
    assert labels == {"dit-xl-2-256, 50K images", "DiT-XL/2 at 512, as published"}


def test_results_that_check_would_not_compare_share_no_table_and_no_figure(tmp_path) -> None:
    digits = [handmade(model="digits", n=500, size=8, reference="digits", cfg=cfg, fid=4) for cfg in (1, 2)]
    write_report(tmp_path / "report.html", [*GUIDED, *digits])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<thead>") == 2
    tables = re.findall(r"<table>\s*<thead>.*?</table>", page, re.DOTALL)
    assert [("BigGAN" in table, "digits" in table) for table in tables] == [(True, False), (False, True)]
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [drawing for drawing in drawings if "dit-xl-2" in drawing and "digits" in drawing] == []
    assert any("digits" in drawing for drawing in drawings)
    assert sorted(path.name for path in save_figures(tmp_path, [*GUIDED, *digits])) == sorted(
        [*(f"{name}.png" for name in FIGURES), *(f"{name}-2.png" for name in FIGURES if name != "fid-gflops")]
    )


def test_the_tables_of_the_page_show_intervals(tmp_path) -> None:
    write_report(tmp_path / "report.html", GUIDED)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<td>9.60 <span>± 0.03</span></td>" in page
    assert "<td>9.6000 ± 0.0300</td>" in page
    assert "-0.0000" not in page


def test_a_figure_of_one_point_or_one_cost_or_of_metrics_that_are_absent_is_left_out() -> None:
    assert figures([handmade(n=10_000)]) == {}
    bare = [handmade(cfg=cfg) for cfg in (1.0, 1.5)]
    for result in bare:
        for name in ("precision", "recall"):
            del result.metrics[name]  # type: ignore[attr-defined]
    assert list(figures(bare)) == ["fid-guidance", "is-guidance"]
    assert "fid-gflops" not in figures([handmade(cfg=cfg) for cfg in (1.0, 1.5)])


def test_a_result_without_recorded_cost_is_in_the_other_figures() -> None:
    results = [handmade(cfg=cfg, gmacs=cfg) for cfg in (1.0, 1.5)]
    del results[0].samples["macs"]  # type: ignore[attr-defined]
    drawn = figures(results)
    assert list(drawn) == list(FIGURES)
    assert series(drawn["fid-guidance"])["dit-xl-2-256, 50K images"][0] == [9.6, 9.6]
    assert series(drawn["fid-gflops"])["dit-xl-2-256, 50K images"][0] == [9.6]


def test_a_result_that_costs_nothing_is_not_drawn_on_a_logarithmic_axis() -> None:
    assert "fid-gflops" not in figures([handmade(cfg=cfg, gmacs=0) for cfg in (1.0, 1.5)])
    assert "fid-gflops" in figures([handmade(cfg=cfg, gmacs=cfg - 1) for cfg in (1.0, 1.5, 2.0)])


@pytest.mark.parametrize("fid", [0.0, -1e-7])
def test_distances_of_zero_and_long_names_can_be_drawn(fid: float) -> None:
    results = [handmade(fid=fid, cfg=cfg, gmacs=cfg, n=500, model="m" * 300, error=1.0) for cfg in (1.0, 1.5)]
    assert [name for name, figure in figures(results).items() if svg(figure)] == list(FIGURES)


def test_text_of_a_foreign_result_is_text_and_no_script_or_formula(tmp_path) -> None:
    names = {key: [3, 4] for key in ("label", "n", "inside")}
    results = [
        replace(
            small(tmp_path, cfg=cfg, model=SCRIPT, protocol=SCRIPT),
            classes={"precision": names},
            missing={"fid_infinity": SCRIPT},
            measured_against=dict.fromkeys(METRIC_NAMES, SCRIPT),
            environment={"device": SCRIPT},
            warnings=(SCRIPT,),
        )
        for cfg in (1.0, 1.5)
    ]
    write_report(tmp_path / "report.html", results, title=SCRIPT)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20
    (image, *_) = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert html.unescape(image).startswith(SCRIPT)
    (drawing, *_) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    texts = [
        "".join(element.itertext())
        for element in ElementTree.fromstring(drawing).iter()
        if element.tag.endswith("text")
    ]
    assert f"{SCRIPT}, 40 images" in texts
    assert len(save_figures(tmp_path / "plots", results)) == 4


def test_text_in_a_figure_is_text_in_the_colour_of_the_page() -> None:
    drawn = svg(figures(GUIDED)["precision-recall"])
    assert ">Recall ↑</text>" in drawn
    assert "currentColor" in drawn
    assert not re.search(r'<g id="axes_', drawn)
    assert drawn == svg(figures(GUIDED)["precision-recall"])


def test_pictures_are_the_first_of_each_class_and_of_the_same_classes_on_both_sides(tmp_path) -> None:
    result = small(tmp_path, reference=save_batch(tmp_path / "more.npz", classes=6))
    sheet = draw_sheet("samples", result.samples, "samples")
    assert sheet is not None
    assert [strip.label for strip in sheet.strips] == ["0", "1", "2", "3"]
    other = draw_sheet("reference", result.reference, "reference", like=sheet)
    assert other is not None
    assert [strip.label for strip in other.strips] == ["0", "1", "2", "3"]
    assert sheet.strips[3] == other.strips[3]
    assert sheet.strips[3] != sheet.strips[2]


def test_pictures_of_another_batch_than_was_measured_are_not_shown(tmp_path) -> None:
    result = small(tmp_path)
    assert draw_sheet("samples", {**result.samples, "n": N + 1}, "samples") is None
    assert draw_sheet("samples", {**result.samples, "path": "absent.npz"}, "samples") is None


def test_a_batch_without_labels_gives_one_row_without_a_name(tmp_path) -> None:
    np.savez(tmp_path / "plain.npz", np.zeros((N, SIZE, SIZE, 3), np.uint8))
    sheet = draw_sheet("samples", small(tmp_path, samples=tmp_path / "plain.npz").samples, "samples")
    assert sheet is not None
    assert [strip.label for strip in sheet.strips] == [""]


def test_plot_writes_the_figures_as_png_and_says_where(tmp_path) -> None:
    files = []
    for number, result in enumerate(GUIDED):
        files.append(str(tmp_path / f"{number}.json"))
        result.save(Path(files[-1]))
    out = tmp_path / "plots"
    done = CliRunner().invoke(main, ["plot", *files, "--out", str(out)], catch_exceptions=False)
    assert done.stdout.split() == [str(out / f"{name}.png") for name in FIGURES]
    for path in done.stdout.split():
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_plot_refuses_results_that_name_no_model(tmp_path) -> None:
    handmade(model=None).save(tmp_path / "r.json")
    with pytest.raises(ResultError, match="records its model and guidance"):
        CliRunner().invoke(
            main, ["plot", str(tmp_path / "r.json"), "--out", str(tmp_path / "plots")], catch_exceptions=False
        )
    assert not (tmp_path / "plots").exists()
