"""Progress bars on a terminal, and lines elsewhere."""

from __future__ import annotations

from functools import partial

import pytest
from rich.console import Console

from dit_eval.commands import progress
from dit_eval.generation.pipeline import SamplingProgress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal of 100 columns."""

    wide = partial(Console, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", wide)


@pytest.mark.usefixtures("terminal")
def test_a_download_within_another_bar_is_shown_first(capsys) -> None:
    with progress.sampling_bar() as update:
        with progress.download_bar("weights") as update_download:
            update_download(1_000_000, 2_000_000)
        before = capsys.readouterr().err
        update(SamplingProgress(done=3, total=4, flops=1e9))
    assert "weights" in before
    assert "images" not in before
    assert "3/4 images" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_samples_and_reference_have_a_bar_each(capsys) -> None:
    with progress.extraction_bar() as update:
        update("samples", 5, 10)
        update("reference", 1, 7)
    drawn = capsys.readouterr().err
    assert "5/10" in drawn
    assert "1/7" in drawn


@pytest.mark.usefixtures("terminal")
def test_other_ranks_of_a_machine_show_only_downloads(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress.sampling_bar() as update_sampling, progress.extraction_bar() as update_extraction:
        update_sampling(SamplingProgress(done=3, total=4, flops=1e9))
        update_extraction("samples", 5, 10)
    assert capsys.readouterr().err == ""
    with progress.download_bar("weights") as update:
        update(1_000_000, 2_000_000)
    assert "weights" in capsys.readouterr().err


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_without_a_terminal_there_is_a_line_every_30_seconds(capsys, monkeypatch) -> None:
    clock = Clock(monkeypatch)
    with progress.extraction_bar() as update:
        for second in range(0, 101, 5):
            clock.now = 1000.0 + second
            update("samples", 100 + 20 * second, 5_100)
    assert capsys.readouterr().err.splitlines() == [
        "samples: 700 of 5,100 images, 20 images/s, 0:03:40 left",
        "samples: 1,300 of 5,100 images, 20 images/s, 0:03:10 left",
        "samples: 1,900 of 5,100 images, 20 images/s, 0:02:40 left",
    ]


def test_a_line_before_the_first_image_names_no_rate(capsys, monkeypatch) -> None:
    clock = Clock(monkeypatch)
    with progress.sampling_bar() as update:
        for second, done in ((0, 0.0), (40, 0.0), (80, 2.0)):
            clock.now = 1000.0 + second
            update(SamplingProgress(done=done, total=4, flops=0))
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 0 of 4 images",
        "sampling: 2 of 4 images, 0.025 images/s, 0:01:20 left",
    ]


def test_other_ranks_print_no_lines(capsys, monkeypatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress.extraction_bar() as update:
        for second in (0, 40):
            clock.now = 1000.0 + second
            update("samples", second, 100)
    assert capsys.readouterr().err == ""
