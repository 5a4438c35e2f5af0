"""The bars, on a terminal."""

from __future__ import annotations

from functools import partial

import pytest
from rich.console import Console

from dit_eval.commands import progress
from dit_eval.generation.pipeline import Progress


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal of 100 columns."""

    wide = partial(Console, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", wide)


def test_a_download_inside_another_bar_is_drawn_before_that_has_anything_to_say(capsys) -> None:
    with progress.sampling_bar() as tell:
        with progress.download_bar("weights") as told:
            told(1_000_000, 2_000_000)
        before = capsys.readouterr().err
        tell(Progress(drawn=3, wanted=4, flops=1e9))
    assert "weights" in before
    assert "images" not in before
    assert "3/4 images" in capsys.readouterr().err


def test_each_side_of_an_evaluation_has_a_bar_of_its_own(capsys) -> None:
    with progress.progress_bar("images") as tell:
        tell("samples", 5, 10)
        tell("reference", 1, 7)
    drawn = capsys.readouterr().err
    assert "5/10" in drawn
    assert "1/7" in drawn


def test_other_ranks_of_a_machine_draw_no_bar_but_of_their_download(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress.sampling_bar() as tell, progress.progress_bar("images") as measured:
        tell(Progress(drawn=3, wanted=4, flops=1e9))
        measured("samples", 5, 10)
    assert capsys.readouterr().err == ""
    with progress.download_bar("weights") as told:
        told(1_000_000, 2_000_000)
    assert "weights" in capsys.readouterr().err
