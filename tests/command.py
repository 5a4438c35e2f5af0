"""The command line as the console script runs it, in this process."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    """What a run of the command left behind."""

    returncode: int
    stdout: str
    stderr: str


def dit_eval(*arguments: object) -> Ran:
    """The command's own entry point: what the console script calls, in a terminal of 80 columns."""
    from dit_eval.cli import run

    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["dit-eval", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stop:
            run()
    return Ran(int(stop.value.code or 0), stdout.getvalue(), stderr.getvalue())


def assert_one_sentence(run: Ran) -> None:
    """Wrong use or bad input: exit 2, one sentence on stderr, nothing on stdout."""
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith(("Error: ", "Usage: "))
    assert "Traceback" not in run.stderr
