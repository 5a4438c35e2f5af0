"""Warnings after which numbers must not be used as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dit_eval.results import warning_level
from tests.handmade import handmade

EVALUATION = Path(__file__).resolve().parents[2] / "dit_eval" / "evaluation"


@pytest.mark.parametrize("phrase", warning_level._FATAL)
def test_the_phrases_are_those_of_the_evaluation(phrase: str) -> None:
    assert any(phrase in path.read_text("utf-8") for path in EVALUATION.glob("*.py"))


def test_every_warning_is_either_fatal_or_a_note_and_custom_weights_are_fatal() -> None:
    sorted_file = (
        "the file looks sorted by class: its inception score is 3.00 in file order and 9.00 over all"
    )
    result = replace(handmade(), warnings=("skipped", sorted_file))
    assert warning_level.fatal_warnings(result) == [sorted_file]
    assert warning_level.notes(result) == ["skipped"]
    (custom,) = warning_level.fatal_warnings(handmade(official=False))
    assert "custom" in custom
