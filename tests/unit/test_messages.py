"""Error messages name options as they are typed on the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dit_eval.cli import main
from dit_eval.commands.sample import sample
from dit_eval.commands.sweep import sweep
from dit_eval.errors import option_name

PACKAGE = Path(__file__).resolve().parents[2] / "dit_eval"
ELSEWHERE = {"--standalone", "--nproc-per-node"}  # of torchrun


def messages() -> Iterator[tuple[str, str]]:
    """Where errors are raised, and the text of their messages without what is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                texts = [
                    constant.value
                    for constant in ast.walk(node.exc)
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                ]
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(texts)


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def test_every_option_that_a_message_names_exists():
    spelled = {name for command in commands(main) for option in command.params for name in option.opts}
    spelled |= {name for option in main.params for name in option.opts} | ELSEWHERE
    named = {
        (option, place)
        for place, text in messages()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
    }
    assert len(named) > 20
    assert {(option, place) for option, place in named if option not in spelled} == set()


def test_no_message_of_generation_sampling_or_search_names_an_option_by_its_parameter():
    """Parameters of one word are not told from prose; those below are never prose."""
    words = {
        option.name for command in (sample, sweep) for option in command.params if "_" in (option.name or "")
    }
    allowed = {"model_args": "model_args={", "num_samples": ""}  # shown beside the option, for Python
    found = [
        (place, word)
        for place, text in messages()
        if place.startswith(("generation", "sampling", "search"))
        for word in words
        if word and re.search(rf"(?<![-\w]){word}\b", text) and word not in allowed
    ]
    assert found == []


@pytest.mark.parametrize("command", [sample, sweep], ids=lambda command: command.name)
def test_the_option_of_every_parameter_is_spelled_as_the_command_has_it(command: click.Command):
    for option in command.params:
        if not option.hidden:  # pyright: ignore[reportAttributeAccessIssue]
            assert option_name(option.name or "") in option.opts
