"""Progress bars on a terminal."""

from __future__ import annotations

from functools import partial

import pytest
from rich.console import Console

from dit_eval.commands import progress
from dit_eval.generation.pipeline import SamplingProgress


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal of 100 columns."""

    wide = partial(Console, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", wide)


def test_a_download_within_another_bar_is_shown_first(capsys) -> None:
    with progress.sampling_bar() as update:
        with progress.download_bar("weights") as update_download:
            update_download(1_000_000, 2_000_000)
        before = capsys.readouterr().err
        update(SamplingProgress(done=3, total=4, flops=1e9))
    assert "weights" in before
    assert "images" not in before
    assert "3/4 images" in capsys.readouterr().err


def test_samples_and_reference_have_a_bar_each(capsys) -> None:
    with progress.extraction_bar() as update:
        update("samples", 5, 10)
        update("reference", 1, 7)
    drawn = capsys.readouterr().err
    assert "5/10" in drawn
    assert "1/7" in drawn


def test_other_ranks_of_a_machine_show_only_downloads(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress.sampling_bar() as update_sampling, progress.extraction_bar() as update_extraction:
        update_sampling(SamplingProgress(done=3, total=4, flops=1e9))
        update_extraction("samples", 5, 10)
    assert capsys.readouterr().err == ""
    with progress.download_bar("weights") as update:
        update(1_000_000, 2_000_000)
    assert "weights" in capsys.readouterr().err
