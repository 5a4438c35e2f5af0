"""The report: one file that makes no network requests, and its figures as PNG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dit_eval.cli import main
from dit_eval.errors import ResultError
from dit_eval.report.figures import FIGURES, figures, svg
from dit_eval.report.page import write_report
from dit_eval.report.pictures import draw_sheet
from dit_eval.results.result import Result
from tests.handmade import handmade

GUIDED = [
    handmade(cfg=cfg, fid=fid, precision=precision, recall=recall)
    for cfg, fid, precision, recall in (
        (1.0, 9.6, 0.67, 0.67),
        (1.25, 3.2, 0.76, 0.62),
        (1.5, 2.3, 0.83, 0.57),
    )
]
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
    write_report(tmp_path / "report.html", [small(tmp_path, cfg=cfg) for cfg in (1.0, 1.5)], title="A & B")
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


def test_no_results_mixed_protocols_or_no_folder_are_refused_and_nothing_is_written(tmp_path) -> None:
    for results, out, words in (
        ([], "report.html", "at least one result"),
        ([handmade(), handmade(protocol="clean")], "report.html", "a single protocol"),
        ([handmade()], "absent/report.html", "cannot be written: No such file"),
    ):
        with pytest.raises(ResultError, match=words):
            write_report(tmp_path / out, results)
    assert list(tmp_path.iterdir()) == []


def test_figures_show_our_points_and_the_papers_where_they_measure_the_same() -> None:
    def series(name: str, results) -> dict[str, list[float]]:
        (axes,) = figures(results)[name].axes
        return {str(drawn.get_label()): np.asarray(drawn.get_ydata()).tolist() for drawn in axes.get_lines()}

    fids = series("fid-guidance", GUIDED)
    assert fids["dit-xl-2-256, 50K images"] == [9.6, 3.2, 2.3]
    assert fids["DiT-XL/2 at 256, as published"] == [9.62, 3.22, 2.27]
    smaller = [handmade(n=10_000, cfg=cfg) for cfg in (1.0, 1.5)]
    assert list(series("fid-guidance", smaller)) == ["dit-xl-2-256, 10K images"]
    assert series("fid-gflops", smaller)["DiT-XL/2 at 512, as published"] == [3.04]


def test_a_figure_of_one_point_or_of_metrics_that_are_absent_is_left_out() -> None:
    assert list(figures([handmade(n=10_000)])) == ["fid-gflops"]
    bare = [handmade(cfg=cfg) for cfg in (1.0, 1.5)]
    for result in bare:
        for name in ("precision", "recall"):
            del result.metrics[name]  # type: ignore[attr-defined]
    assert list(figures(bare)) == ["fid-guidance", "is-guidance", "fid-gflops"]


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
