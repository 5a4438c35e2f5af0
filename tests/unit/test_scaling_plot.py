"""The scaling figure, and the results from which it is drawn."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from PIL import Image

from dit_eval.cli import main
from dit_eval.errors import ResultError, UsageError
from dit_eval.flop_table import flop_rows
from dit_eval.report.scaling import plot_scaling
from dit_eval.results import Result


def write_result(folder, *, model: str | None = "DiT-S/8", image_size=256, fid=60.0):
    """A result whose samples `dit-eval sample` has drawn."""
    result = Result(
        metrics={"fid": fid},
        against={},
        absent={},
        protocol={},
        samples={
            "path": "batch.npz",
            "n": 50_000,
            **({"plan": {"model": model, "image_size": image_size}} if model else {}),
        },
        reference={},
        environment={},
    )
    (folder / "result.json").write_text(result.to_json())
    return folder / "result.json"


def test_the_plot_names_all_twelve_models(tmp_path):
    plot_scaling(tmp_path / "scaling.svg", flop_rows())
    svg = (tmp_path / "scaling.svg").read_text()
    assert all(f"<!-- {size}/{patch} -->" in svg for size in ("S", "B", "L", "XL") for patch in (8, 4, 2))


@pytest.mark.parametrize("model", ["DiT-XL/2", "dit-xl-2-256"])
def test_results_add_a_panel_of_fid_against_gflops(model, tmp_path):
    plot_scaling(tmp_path / "scaling.svg", flop_rows(), [write_result(tmp_path, model=model)])
    svg = (tmp_path / "scaling.svg").read_text()
    assert "<!-- FID of 50,000 -->" in svg
    assert svg.count("<!-- XL/2 -->") == 2


def test_the_command_writes_a_picture_and_says_where(tmp_path):
    out = tmp_path / "scaling.png"
    done = CliRunner().invoke(main, ["flops", "plot", "--out", str(out)], catch_exceptions=False)
    assert done.stdout == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"


def test_a_result_that_names_no_dit_is_refused(tmp_path):
    result = write_result(tmp_path, model="digits")
    with pytest.raises(ResultError, match="digits, is none of the twelve"):
        plot_scaling(tmp_path / "scaling.svg", flop_rows(), [result])
    result = write_result(tmp_path, model=None)
    with pytest.raises(ResultError, match="it has no 'plan'"):
        plot_scaling(tmp_path / "scaling.svg", flop_rows(), [result])
    assert not (tmp_path / "scaling.svg").exists()


def test_another_image_size_or_suffix_is_refused(tmp_path):
    result = write_result(tmp_path, image_size=512)
    with pytest.raises(UsageError, match="Choose --image-size 512"):
        plot_scaling(tmp_path / "scaling.svg", flop_rows(), [result])
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        plot_scaling(tmp_path / "scaling.pdf", flop_rows())
