"""From Python: arrays as samples, types, and results that show themselves."""

from __future__ import annotations

import doctest
import inspect
import json
import pydoc
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dit_eval
from dit_eval.errors import ResultError, StatisticsError, UsageError
from tests.handmade import handmade

PUBLIC = [name for name in dit_eval.__all__ if name != "__version__"]
NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "evaluate.ipynb"


def some_images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    np.savez(tmp_path / "ref.npz", some_images(5, 1))
    return tmp_path / "ref.npz"


def test_arrays_of_a_training_loop_give_the_numbers_of_the_file(
    reference: Path, golden_inception: Path, tmp_path: Path, own_cache: Path
) -> None:
    images = some_images(7, 0)
    np.savez(tmp_path / "samples.npz", images)

    def batches() -> Iterator[np.ndarray]:
        yield images[:3]
        yield images[3:]

    file = tmp_path / "samples.npz"
    from_file = dit_eval.evaluate(file, reference, inception=golden_inception, batch_size=3)
    from_loop = dit_eval.evaluate(batches(), reference, inception=golden_inception, batch_size=3)
    assert from_file is not None
    assert from_loop is not None
    assert from_loop.metrics == pytest.approx(from_file.metrics, rel=1e-6)
    assert (from_loop.samples["path"], from_loop.samples["n"]) == ("arrays", 7)
    assert from_loop.name == "arrays"
    assert len(list((own_cache / "features").iterdir())) == 2  # of the two files


def test_too_few_arrays_are_refused(reference: Path, golden_inception: Path) -> None:
    with pytest.raises(StatisticsError, match="at least 4 images"):
        dit_eval.evaluate(some_images(3, 0), reference, inception=golden_inception)


def test_a_notebook_shows_a_result_as_a_table() -> None:
    shown = handmade(samples="<b>.npz", model=None)._repr_html_()
    assert shown.count("<tr>") == 1 + 5
    assert "<td>9.6000</td>" in shown
    assert "&lt;b&gt;.npz: 50,000 images, protocol adm adm-fingerprint" in shown


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"device": "mps"}, "device 'mps' is not supported"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available"),
    ],
)
def test_wrong_parameters_of_an_evaluation_are_named(tmp_path: Path, options, complaint: str) -> None:
    np.savez(tmp_path / "samples.npz", some_images(5, 0)[:, :8, :8])
    with pytest.raises(UsageError, match=complaint):
        dit_eval.evaluate(tmp_path / "samples.npz", "digits", **options)


def test_the_package_lists_its_public_names_with_the_first_line_of_their_documentation() -> None:
    assert dir(dit_eval) == sorted(dit_eval.__all__)
    assert dit_eval.__doc__ is not None
    listed = dict(re.findall(r"^    (\w+) +(.+)$", dit_eval.__doc__, re.MULTILINE))
    assert listed == {name: inspect.getdoc(getattr(dit_eval, name)).splitlines()[0] for name in PUBLIC}  # type: ignore[union-attr]
    page = pydoc.plain(pydoc.render_doc(dit_eval))
    for name in PUBLIC:
        assert re.search(rf"^    (class )?{name}\(", page, re.MULTILINE), name


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(dit_eval, name))])
def test_every_public_function_is_typed_and_has_an_example(name: str) -> None:
    function = getattr(dit_eval, name)
    signature = inspect.signature(function)
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    assert inspect.Signature.empty not in [*annotations, signature.return_annotation]
    assert f"dit_eval.{name}(" in function.__doc__


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_documentation_print_what_they_say(here: Path) -> None:
    torch.save({"ema": {"weight": torch.zeros(1), "bias": torch.zeros(1)}}, here / "model.pt")
    names: dict[str, Any] = {"dit_eval": dit_eval}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    first = ["generate", "evaluate", "Result"]  # whose files and names the others use
    functions = [name for name in PUBLIC if inspect.isfunction(getattr(dit_eval, name))]
    for name in [*first, *(name for name in functions if name not in first)]:
        text = inspect.getdoc(getattr(dit_eval, name)) or ""
        example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
        report: list[str] = []
        runner.run(example, out=report.append, clear_globs=False)
        assert report == []
        names = example.globs
    assert runner.summarize(verbose=False).attempted >= len(first) + 7


def test_the_notebook_is_executed_names_no_machine_and_its_code_runs(here: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any(
        "± 95 %" in "".join(output.get("data", {}).get("text/html", ""))
        for cell in code
        for output in cell["outputs"]
    )
    assert re.findall(r"/(?:root|home|tmp|work|Users)/", NOTEBOOK.read_text("utf-8")) == []
    names: dict[str, Any] = {}
    for cell in code:
        exec("".join(cell["source"]), names)


def test_a_result_is_saved_loaded_indexed_and_shown_in_a_line(tmp_path: Path) -> None:
    result = replace(handmade(error=0.1), missing={"fid_infinity": "not asked for"})
    assert dit_eval.Result.load(result.save(tmp_path / "result.json")) == result
    assert result["fid"] == 9.6
    with pytest.raises(KeyError, match="fid_infinity: not asked for"):
        result["fid_infinity"]
    with pytest.raises(KeyError, match="fdi: no such metric; there are fid, sfid"):
        result["fdi"]
    assert repr(result) == (
        "Result('dit-xl-2-256 (cfg=1.00)', FID 9.60 ± 0.10, sFID 6.80 ± 0.10, IS 121.60 ± 0.10, "
        "Prec. 0.67 ± 0.10, Rec. 0.67 ± 0.10, n=50,000)"
    )
    assert repr(handmade()).startswith("Result('dit-xl-2-256 (cfg=1.00)', FID 9.60, sFID 6.80, ")


def test_check_takes_results_and_files_alike(tmp_path: Path) -> None:
    result, baseline = handmade(fid=3.2, error=0.1), handmade(error=0.1)
    files = result.save(tmp_path / "result.json"), baseline.save(tmp_path / "baseline.json")
    outcomes = [
        dit_eval.check(first, second) for first in (result, files[0]) for second in (baseline, files[1])
    ]
    assert [outcome.named("better") for outcome in outcomes] == [["fid"]] * 4
    assert (outcomes[1].result, outcomes[1].baseline) == (result.name, str(files[1]))
    name = "'dit-xl-2-256 (cfg=1.00)'"
    assert repr(outcomes[0]) == f"Check({name} against {name}, passed, n=50,000)"
    limited = dit_eval.check(baseline, result, max_gflops=100)
    assert repr(limited) == f"Check({name} against {name}, failed: fid, gflops, n=50,000)"
    assert repr(dit_eval.compare(result, baseline, to="best")) == "Comparison(2 results, to='best')"
    few = replace(result, samples={**result.samples, "n": 7})
    assert repr(dit_eval.compare(result, baseline, few)) == "Comparison(3 results in 2 groups, to='first')"
    with pytest.raises(ResultError, match=r"dit-xl-2-256 \(cfg=1.00\) and .* do not measure the same thing"):
        dit_eval.check(replace(result, samples={**result.samples, "n": 7}), files[1])


def test_doctor_takes_paths_and_needs_no_network_for_pixels(tmp_path: Path) -> None:
    images = some_images(8, 0)
    images[1] = images[0]
    np.savez(tmp_path / "batch.npz", images)
    problems = dit_eval.doctor(str(tmp_path / "batch.npz"), pixels_only=True)
    assert [problem.name for problem in problems] == ["duplicates"]
