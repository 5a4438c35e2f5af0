"""How the settings of a search are written, checked and combined."""

from __future__ import annotations

import pytest

from dit_eval.errors import UsageError
from dit_eval.search.settings import (
    describe,
    file_name,
    generation_arguments,
    grid,
    require_axes,
    split_values,
)
from tests.command import assert_one_sentence, dit_eval


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("50,250", ["50", "250"]),
        ("10:20:10", ["10", "20"]),
        ("1.0:2.0:0.25", ["1", "1.25", "1.5", "1.75", "2"]),
        ("0:0.3:0.1", ["0", "0.1", "0.2", "0.3"]),  # 3 * 0.1 > 0.3 in floating point
        ("1:2:0.75,4", ["1", "1.75", "4"]),
        ("none, 0.3 5", ["none", "0.3 5"]),
        ("[0,0.7],(0.1, 1),[0.2,1)", ["[0,0.7]", "(0.1, 1)", "[0.2,1)"]),
        ("module:function", ["module:function"]),
    ],
)
def test_values_are_separated_by_commas_and_ranges_include_their_end(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize("text", ["", "1,,2", "1:0:0.1", "1:2:0", "1:2:-1", "0:1:1e-9"])
def test_values_without_an_end_are_refused(text):
    with pytest.raises(UsageError, match=r"empty value|is not a range"):
        split_values(text)


@pytest.mark.parametrize(
    ("vary", "fixed", "words"),
    [
        ({"seed": [1, 2]}, {}, "seed is not a setting that can vary. Choose among model, ckpt"),
        ({"cfg": [1, 2]}, {"cfg": 1.5}, "cfg is varied and also given as 1.5"),
        ({"model.a": [1, 2]}, {"model_args": {"a": 3}}, "model.a is varied and also given as 3"),
        ({"cfg": [1.0, 2.0, 1.0]}, {}, "cfg has a value twice: 1, 2, 1"),
        ({"cfg": [1.0]}, {}, "nothing varies"),
        ({"cfg": [1.0, 2.0], "steps": []}, {}, "nothing varies"),
        ({}, {}, "nothing varies"),
    ],
)
def test_a_search_of_nothing_or_of_a_fixed_setting_is_refused(vary, fixed, words):
    with pytest.raises(UsageError, match=words):
        require_axes(vary, fixed)


def test_arguments_of_a_plugin_are_added_to_those_that_all_candidates_share():
    fixed = {"steps": 5, "model_args": {"ckpt": "a.pt", "scale": 1}}
    require_axes({"model.temperature": [0.5, 1.0]}, fixed)
    assert generation_arguments(fixed, {"cfg": 2.0, "model.temperature": 0.5}) == {
        "steps": 5, "cfg": 2.0, "model_args": {"ckpt": "a.pt", "scale": 1, "temperature": 0.5},
    }  # fmt: skip
    assert generation_arguments({"steps": 5}, {"cfg": 2.0}) == {"steps": 5, "cfg": 2.0}
    assert fixed["model_args"] == {"ckpt": "a.pt", "scale": 1}


def test_the_grid_holds_every_combination_and_each_has_a_name_of_its_own():
    vary = {"cfg": [1.0, 1.5], "cfg_interval": [None, (0.3, 5.0)]}
    candidates = list(grid(vary))
    assert [describe(values) for values in candidates] == [
        "cfg=1, cfg_interval=none",
        "cfg=1, cfg_interval=0.3 5",
        "cfg=1.5, cfg_interval=none",
        "cfg=1.5, cfg_interval=0.3 5",
    ]
    assert file_name(3, candidates[3]) == "003-cfg-1.5-cfg-interval-0.3-5"


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("cfg", "'cfg' is not of the form NAME=VALUES. Separate values by commas"),
        ("cfg=", "e.g. cfg=1.0,1.5 or cfg=1.0:3.0:0.25."),
        ("=1,2", "'=1,2' is not of the form NAME=VALUES"),
        ("cfg:1,2", "'cfg:1,2' is not of the form NAME=VALUES"),
        ("cfg=1:2", "'cfg=1:2': '1:2' is not a valid float range. Separate values by commas, or give START:"),
        ("--cfg=1,x", "'--cfg=1,x': 'x' is not a valid float range. Separate"),
        ("cfgs=1,2", "does not name a setting that can vary. Choose among model, ckpt"),
        ("cfg-intervall=none,0.3 5", "Did you mean cfg-interval"),
        ("model.=1,2", "does not name a setting that can vary"),
        ("labels=1,2", "does not name a setting that can vary"),
        ("cfg=1,x", "'x' is not a valid float"),
        ("sampler=ddpm,euler", "'euler' is not one of"),
        ("cfg-interval=none,3", "'3' is not an interval of two numbers, such as '0.3 5', or none"),
    ],
)
def test_the_command_converts_values_as_sample_does(tmp_path, vary, words):
    run = dit_eval(
        "sweep", "--against", "digits", "--model", "digits", "--vary", vary, "--out", tmp_path / "s"
    )
    assert_one_sentence(run)
    assert words in " ".join(run.stderr.replace("│", " ").split())
    assert not (tmp_path / "s").exists()
