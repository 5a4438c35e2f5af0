"""`dit-eval reproduce table2` on a tiny model: everything once, nothing twice, the same under torchrun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from dit_eval.cli import main
from dit_eval.errors import UsageError
from dit_eval.results.result import read_result
from tests.e2e.registered import torchrun
from tests.registry import make_registry, use_registry

STEMS = ("cfg-1.00", "cfg-1.25", "cfg-1.50")
FILES = sorted(
    ["report.html", *(f"{stem}{end}" for stem in STEMS for end in (".json", ".npz", ".result.json"))]
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def registered(registry: Path, monkeypatch: pytest.MonkeyPatch):
    use_registry(registry, monkeypatch)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reproduce(out: Path, weights: Path, *more: object) -> Result:
    arguments = [
        "reproduce",
        "table2",
        "--model",
        "tiny",
        "--num-samples",
        "8",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    return CliRunner().invoke(
        main, [*arguments, "--inception", str(weights), *map(str, more)], catch_exceptions=False
    )


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.usefixtures("registered")
def test_everything_is_made_once_what_is_there_is_kept_and_other_settings_are_refused(
    golden_inception: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = reproduce(out, golden_inception)
    assert sorted(path.name for path in out.iterdir()) == FILES
    for stem, cfg in zip(STEMS, (1.0, 1.25, 1.5), strict=True):
        result = read_result(out / f"{stem}.result.json")
        assert result.samples["plan"]["cfg"] == cfg
        assert result.samples["macs"] > 0
        assert f"tiny (cfg={cfg:.2f})" in first.stdout
    assert "BigGAN-deep" in first.stdout
    assert "8 images, not 50,000" in " ".join(first.stdout.split())
    assert first.stdout.endswith(f"Report: {out / 'report.html'}\n")
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<figure>\n<svg") == 5 + 5  # and each metric of every result
    assert "reference" in page

    made = stamps(out)
    (out / "cfg-1.25.result.json").unlink()
    (out / "cfg-1.50.npz").unlink()
    again = reproduce(out, golden_inception)
    assert again.stdout == first.stdout
    changed = {name for name, stamp in stamps(out).items() if stamp != made[name]}
    assert changed == {"cfg-1.25.result.json", "cfg-1.50.npz", "cfg-1.50.json", "report.html"}
    with pytest.raises(UsageError, match=r"made with other settings: .*num \(8 before, 9 now\)"):
        reproduce(out, golden_inception, "--num-samples", 9)


@pytest.mark.usefixtures("registered")
def test_an_unknown_model_or_one_without_a_reference_is_one_sentence(
    golden_inception: Path, registry: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown model 'XL/3'"):
        reproduce(tmp_path / "out", golden_inception, "--model", "XL/3")
    manifest = registry / "models" / "manifest.toml"
    text = manifest.read_text("utf-8")
    try:
        manifest.write_text(text.replace('reference = "tiny"\n', ""), "utf-8")
        with pytest.raises(UsageError, match="no reference is registered for tiny"):
            reproduce(tmp_path / "out", golden_inception)
    finally:
        manifest.write_text(text, "utf-8")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_two_ranks_make_the_same_batches_and_numbers(
    golden_inception: Path, registry: Path, tmp_path: Path, one_thread: None
) -> None:
    options = ["--model", "tiny", "--num-samples", 8, "--device", "cpu", "--inception", golden_inception]
    arguments = ["reproduce", "table2", *options, "--out", tmp_path / "2"]
    done = torchrun(2, registry, *arguments, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report:") == 1
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == FILES
    reproduce(tmp_path / "1", golden_inception)
    for stem in STEMS:
        single, double = (read_result(tmp_path / ranks / f"{stem}.result.json") for ranks in "12")
        assert single.samples["digest"] == double.samples["digest"]
        assert single.metrics == pytest.approx(double.metrics, rel=1e-6)
        assert single.classes == double.classes
        assert double.environment["processes"] == 2
