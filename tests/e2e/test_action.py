"""The composite action: its steps, run as a script on the bundled digits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEP = re.compile(r"    - name: (\w+)\n(.*?)(?=    - name: |\Z)", re.DOTALL)


def script(step: str) -> str:
    """The commands of one step of action.yml."""
    body = dict(STEP.findall((ROOT / "action.yml").read_text("utf-8")))[step].split("run: ", 1)[1]
    lines = body.removeprefix("|\n").splitlines()
    return "\n".join(line.strip() for line in lines)


def test_the_actions_steps_draw_measure_and_pass_and_fail_where_the_model_is_worse(tmp_path: Path) -> None:
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "dit-eval").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dit_eval "$@"\n')
    (shims / "dit-eval").chmod(0o755)
    inputs = {
        "MODEL": "digits",
        "NUM": "100",
        "REFERENCE": "digits",
        "PROTOCOL": "digits",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run(step: str, folder: str, options: str = "", baseline: str = "good") -> subprocess.CompletedProcess:
        more = {"FOLDER": folder, "OPTIONS": options, "BASELINE": f"{baseline}/result.json"}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script(step)],
            cwd=tmp_path,
            env=os.environ | inputs | more,
            capture_output=True,
            text=True,
        )

    for folder, options in (("good", "--steps 10"), ("bad", "--steps 2")):
        for step in ("Sample", "Evaluate"):
            done = run(step, folder, options)
            assert done.returncode == 0, done.stderr
    assert run("Check", "good").returncode == 0
    worse = run("Check", "bad")
    assert worse.returncode == 1, worse.stderr
    assert worse.stdout.startswith("::error title=dit-eval check::")
    assert "worse" in (tmp_path / "summary.md").read_text("utf-8")


@pytest.mark.parametrize("step", ["Install", "Sample", "Evaluate", "Check"])
def test_no_step_pastes_an_input_into_its_script(step: str) -> None:
    """An input in the text of a script could run as a command; inputs come as variables."""
    assert "${{" not in script(step)
