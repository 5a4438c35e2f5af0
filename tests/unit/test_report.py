"""The report: one file that makes no network requests, and its figures as PNG files."""

from __future__ import annotations

import base64
import csv
import io
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
from dit_eval.errors import ResultError, UsageError
from dit_eval.report.figures import FIGURES, PALETTE, figures, svg
from dit_eval.report.page import SAMPLES, write_report
from dit_eval.report.pictures import SEARCHED, Pictures, open_reference_images, open_samples
from dit_eval.report.plots import save_figures
from dit_eval.results.metric_names import ADM
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
EVERY = [f"{metric}-results" for metric in ADM]
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
    assert page.count("<figure>\n<svg") == len(EVERY) + len(FIGURES)
    assert page.count('href="data:image/png;base64,') == 3 * N  # two batches and the reference
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
    assert "<image" not in page
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
    tables = re.findall(r"<table[^>]*>\s*<thead>.*?</table>", page, re.DOTALL)
    assert [("BigGAN" in table, "digits" in table) for table in tables] == [(True, False), (False, True)]
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [drawing for drawing in drawings if "dit-xl-2" in drawing and "digits" in drawing] == []
    assert any("digits" in drawing for drawing in drawings)
    names = [*FIGURES, *EVERY]
    assert sorted(path.name for path in save_figures(tmp_path, [*GUIDED, *digits])) == sorted(
        [*(f"{name}.png" for name in names), *(f"{name}-2.png" for name in names if name != "fid-gflops")]
    )


def test_the_tables_of_the_page_show_intervals(tmp_path) -> None:
    write_report(tmp_path / "report.html", GUIDED)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<td>9.60 <span>± 0.03</span></td>" in page
    assert "<td>9.6000 ± 0.0300</td>" in page
    assert "-0.0000" not in page


def test_a_figure_of_one_point_or_one_cost_or_of_metrics_that_are_absent_is_left_out() -> None:
    assert figures([handmade(n=10_000)]) == {}
    single = figures([handmade(n=10_000, gmacs=gmacs, model=f"m{gmacs}") for gmacs in (1, 2)])
    assert list(single) == ["precision-recall", "fid-gflops", *EVERY]
    bare = [handmade(cfg=cfg) for cfg in (1.0, 1.5)]
    for result in bare:
        for name in ("precision", "recall"):
            del result.metrics[name]  # type: ignore[attr-defined]
    assert list(figures(bare)) == ["fid-guidance", "is-guidance", *EVERY[:3]]
    assert "fid-gflops" not in figures([handmade(cfg=cfg) for cfg in (1.0, 1.5)])


def test_a_result_without_recorded_cost_is_in_the_other_figures() -> None:
    results = [handmade(cfg=cfg, gmacs=cfg) for cfg in (1.0, 1.5)]
    del results[0].samples["macs"]  # type: ignore[attr-defined]
    drawn = figures(results)
    assert list(drawn) == [*FIGURES, *EVERY]
    assert series(drawn["fid-guidance"])["dit-xl-2-256, 50K images"][0] == [9.6, 9.6]
    assert series(drawn["fid-gflops"])["dit-xl-2-256, 50K images"][0] == [9.6]


def test_a_result_that_costs_nothing_is_not_drawn_on_a_logarithmic_axis() -> None:
    assert "fid-gflops" not in figures([handmade(cfg=cfg, gmacs=0) for cfg in (1.0, 1.5)])
    assert "fid-gflops" in figures([handmade(cfg=cfg, gmacs=cfg - 1) for cfg in (1.0, 1.5, 2.0)])


@pytest.mark.parametrize("fid", [0.0, -1e-7])
def test_distances_of_zero_and_long_names_can_be_drawn(fid: float) -> None:
    results = [handmade(fid=fid, cfg=cfg, gmacs=cfg, n=500, model="m" * 300, error=1.0) for cfg in (1.0, 1.5)]
    assert [name for name, figure in figures(results).items() if svg(figure)] == [*FIGURES, *EVERY]


def test_text_of_a_foreign_result_is_text_and_no_script_or_formula(tmp_path) -> None:
    names = {key: [3, 4] for key in ("label", "n", "inside")}
    results = [
        replace(
            small(tmp_path, cfg=cfg, model=SCRIPT, protocol=SCRIPT),
            classes={"precision": names},
            missing={"fid_infinity": SCRIPT},
            measured_against=dict.fromkeys(METRIC_NAMES, SCRIPT),
            environment={"dit_eval": "0", "torch": "2", "device": SCRIPT},
            warnings=(SCRIPT,),
        )
        for cfg in (1.0, 1.5)
    ]
    write_report(tmp_path / "report.html", results, title=SCRIPT)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20
    drawing = next(found for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if ", 40 images" in found)
    texts = [
        "".join(element.itertext())
        for element in ElementTree.fromstring(drawing).iter()
        if element.tag.endswith("text")
    ]
    assert f"{SCRIPT}, 40 images" in texts
    assert len(save_figures(tmp_path / "plots", results)) == 3 + len(EVERY) + 1


def test_text_in_a_figure_is_text_in_the_colour_of_the_page() -> None:
    drawn = svg(figures(GUIDED)["precision-recall"])
    assert ">Recall ↑</text>" in drawn
    assert "currentColor" in drawn
    assert not re.search(r'<g id="axes_', drawn)
    assert drawn == svg(figures(GUIDED)["precision-recall"])


def test_the_best_is_marked_only_where_it_is_better_than_every_other_beyond_chance(tmp_path) -> None:
    def bold(*fids: float) -> list[str]:
        results = [handmade(cfg=1 + number / 4, fid=fid, error=0.1) for number, fid in enumerate(fids)]
        write_report(tmp_path / "report.html", results)
        page = (tmp_path / "report.html").read_text("utf-8")
        assert ("beyond chance" in page.split("<nav")[0]) == (len(fids) > 1 and "<td><strong>" not in page)
        return re.findall(r"<td><strong>([^<]*)", page)

    assert bold(3.0, 4.0, 5.0) == ["3.00"]  # the other metrics are equal
    assert bold(3.0, 3.05, 5.0) == []
    assert bold(3.0) == []
    write_report(tmp_path / "report.html", [handmade(cfg=cfg, fid=cfg) for cfg in (1.0, 1.5)])
    assert "<td><strong>" not in (tmp_path / "report.html").read_text("utf-8")  # without intervals


def test_the_head_says_what_was_measured_when_and_how(tmp_path) -> None:
    command = "dit-eval fid batch.npz imagenet-256"
    result = replace(GUIDED[2], date="2026-11-26T09:30:00+00:00", command=command)
    write_report(tmp_path / "report.html", [result])
    head = (tmp_path / "report.html").read_text("utf-8").split("<nav")[0]
    for text in (
        "<b>2.30 <small>± 0.03</small>",
        "95 % confidence interval 2.27 – 2.33",
        "50,000 images of 256×256 against imagenet-256, protocol adm",
        "2026-11-26 09:30 UTC",
        f"<code>{command}</code>",
        "dit-eval 0, torch 2, cpu",
    ):
        assert text in head


def test_warnings_that_invalidate_numbers_are_set_apart_with_the_results_that_have_them(tmp_path) -> None:
    fatal = "9 samples for 64 features: the covariance is rank-deficient, so FID and sFID have a bias"
    results = [replace(GUIDED[0], warnings=(fatal, "a note")), replace(GUIDED[1], warnings=("a note",))]
    write_report(tmp_path / "report.html", results)
    page = (tmp_path / "report.html").read_text("utf-8")
    alert = page[page.index('role="alert"') : page.index('<div class="head"')]
    assert f"<b>dit-xl-2-256 (cfg=1.00):</b> {fatal}" in alert
    assert "a note" not in alert
    assert page.count("<li>a note</li>") == 1
    write_report(tmp_path / "report.html", [handmade(official=False)])
    assert "custom, so these are not the numbers of the literature" in (tmp_path / "report.html").read_text(
        "utf-8"
    )


def test_the_page_holds_the_data_as_csv(tmp_path) -> None:
    classes = {"precision": {"label": [3, 4], "n": [9, 1], "inside": [6, 0]}}
    write_report(tmp_path / "report.html", [replace(result, classes=classes) for result in GUIDED])
    page = (tmp_path / "report.html").read_text("utf-8")
    links = dict(re.findall(r'download="([^"]*)" href="data:text/csv;charset=utf-8;base64,([^"]*)"', page))
    rows, shares = (
        list(csv.DictReader(io.StringIO(base64.b64decode(text).decode()))) for text in links.values()
    )
    assert list(links) == ["results.csv", "classes.csv"]
    assert [float(row["fid"]) for row in rows] == [9.6, 3.2, 2.3]
    assert [float(row["fid_low"]) for row in rows] == pytest.approx([9.57, 3.17, 2.27])
    assert [(row["class"], row["inside"]) for row in shares] == [("3", "6"), ("4", "0")] * 3


def test_more_models_than_colours_have_a_panel_each() -> None:
    number = len(PALETTE) + 1
    results = [handmade(model=f"model-{i}", cfg=cfg, error=0.1) for i in range(number) for cfg in (1.0, 1.5)]
    axes = figures(results)["fid-guidance"].axes
    shown = [panel.get_title(loc="left") for panel in axes]
    assert shown == [*(f"model-{i}, 50K images" for i in range(number)), ""]
    assert len({panel.get_ylim() for panel in axes[:number]}) == 1
    (single,) = figures(results[:-2])["fid-guidance"].axes
    assert len(single.containers) == len(PALETTE) + 2  # and the published DiT and SiT


def test_every_result_has_a_row_with_its_interval() -> None:
    figure = figures([*GUIDED, handmade(model=None, samples="other.npz")])["fid-results"]
    (axes,) = figure.axes
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [[9.6], [3.2], [2.3], [9.6]]
    bars = [collection.get_segments()[0][:, 0].tolist() for collection in axes.collections]  # type: ignore[attr-defined]
    assert bars == [pytest.approx([x - 0.03, x + 0.03]) for x in (9.6, 3.2, 2.3)]


def with_outside(result: Result, *outside: int) -> Result:
    inside = np.ones(N, bool)
    inside[list(outside)] = False
    metrics = {**result.metrics, "precision": inside.mean()}
    return replace(result, metrics=metrics, influence={"precision": (inside - inside.mean()).astype("f4")})


def opened(result: Result) -> Pictures:
    pictures = open_samples(result)
    assert pictures is not None
    return pictures


def test_samples_outside_the_manifold_are_those_that_precision_does_not_count(tmp_path) -> None:
    pictures = opened(with_outside(small(tmp_path), 3, 17))
    labels = np.load(tmp_path / "batch.npz")["arr_1"]
    captions = [f"image {i}, class {labels[i]}, outside the reference’s manifold" for i in (3, 17)]
    assert [picture.caption for picture in pictures.outside(8)] == captions
    assert [picture.outside for picture in pictures.spread(N)] == [i in (3, 17) for i in range(N)]
    first, *others = pictures.of_class(labels[17], 4)
    assert (first.outside, [picture.outside for picture in others]) == (
        True,
        [labels[3] == labels[17], *[False] * 2],
    )
    assert opened(small(tmp_path)).outside(8) == []


def test_pictures_are_evenly_spaced_and_those_of_a_class_are_of_that_class(tmp_path) -> None:
    result = small(tmp_path, reference=save_batch(tmp_path / "more.npz", classes=6))
    pictures, reference = opened(result), open_reference_images(result)
    assert reference is not None
    assert [picture.caption.split(",")[0] for picture in pictures.spread(4)] == [
        f"image {i}" for i in (0, 13, 26, 39)
    ]
    assert len(pictures.spread(SAMPLES)) == N
    for side, label in ((pictures, 3), (reference, 5)):
        shown = side.of_class(label, 3)
        assert {picture.caption.partition(", ")[2] for picture in shown} == {f"class {label}"}
        assert len({picture.uri for picture in shown}) == 1  # the images of a class are alike
    assert pictures.of_class(5, 3) == []


def test_a_compressed_file_is_read_from_its_start_and_a_large_image_becomes_a_jpeg(tmp_path) -> None:
    images = np.zeros((SEARCHED + 50, 1, 1, 3), np.uint8)
    np.savez_compressed(tmp_path / "long.npz", images)
    pictures = opened(handmade(samples=tmp_path / "long.npz", n=len(images), size=1))
    assert [picture.caption for picture in pictures.spread(2)] == ["image 0", f"image {SEARCHED - 1:,}"]
    np.savez(tmp_path / "large.npz", np.zeros((2, 300, 300, 3), np.uint8))
    (picture,) = opened(handmade(samples=tmp_path / "large.npz", n=2, size=300)).draw([1])
    assert picture.uri.startswith("data:image/jpeg;base64,")


def test_pictures_of_another_batch_than_was_measured_are_not_shown(tmp_path) -> None:
    result = small(tmp_path)
    assert open_samples(replace(result, samples={**result.samples, "n": N + 1})) is None
    assert open_samples(replace(result, samples={**result.samples, "path": "absent.npz"})) is None


def test_a_batch_without_labels_is_shown_without_classes(tmp_path) -> None:
    np.savez(tmp_path / "plain.npz", np.zeros((N, SIZE, SIZE, 3), np.uint8))
    pictures = opened(small(tmp_path, samples=tmp_path / "plain.npz"))
    assert [picture.caption for picture in pictures.spread(2)] == ["image 0", "image 39"]
    assert pictures.of_class(0, 3) == []


def test_plot_writes_the_figures_as_png_and_says_where(tmp_path) -> None:
    files = []
    for number, result in enumerate(GUIDED):
        files.append(str(tmp_path / f"{number}.json"))
        result.save(Path(files[-1]))
    out = tmp_path / "plots"
    done = CliRunner().invoke(main, ["plot", *files, "--out", str(out)], catch_exceptions=False)
    assert done.stdout.split() == [str(out / f"{name}.png") for name in (*FIGURES, *EVERY)]
    for path in done.stdout.split():
        with Image.open(path) as picture:
            assert picture.format == "PNG"


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_vector_formats_and_the_same_figure_is_the_same_file(tmp_path, kind, start) -> None:
    first, second = (save_figures(tmp_path / folder, GUIDED, kind) for folder in "ab")
    assert [path.name for path in first] == [f"{name}.{kind}" for name in (*FIGURES, *EVERY)]
    assert all(path.read_bytes().startswith(start) for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_plot_into_a_single_file_is_refused_with_the_option_to_use(tmp_path) -> None:
    GUIDED[0].save(tmp_path / "r.json")
    with pytest.raises(UsageError, match="--out is a folder; choose their format with --format svg"):
        CliRunner().invoke(
            main, ["plot", str(tmp_path / "r.json"), "--out", "figures.svg"], catch_exceptions=False
        )


def test_plot_refuses_results_that_name_no_model(tmp_path) -> None:
    handmade(model=None).save(tmp_path / "r.json")
    with pytest.raises(ResultError, match="records its model and guidance"):
        CliRunner().invoke(
            main, ["plot", str(tmp_path / "r.json"), "--out", str(tmp_path / "plots")], catch_exceptions=False
        )
    assert not (tmp_path / "plots").exists()
