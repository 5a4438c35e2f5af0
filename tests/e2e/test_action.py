"""The composite action and the example of its use: its steps, run as a script on the bundled digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}


def example() -> dict[str, Any]:
    """The inputs that examples/regression.yml gives to the action."""
    workflow = yaml.safe_load((ROOT / "examples" / "regression.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    (step,) = (step for step in job["steps"] if "dit-eval" in step["uses"])
    return step["with"]


@pytest.fixture
def run(tmp_path: Path):
    """Run one step of the action as a runner would: inputs as told, or as they are by default."""
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "dit-eval").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dit_eval "$@"\n')
    (shims / "dit-eval").chmod(0o755)
    defaults = {name: entry.get("default") for name, entry in ACTION["inputs"].items()}

    def call(name: str, **inputs: Any) -> subprocess.CompletedProcess[str]:
        told = defaults | {key.replace("_", "-"): str(value) for key, value in inputs.items()}
        given = {
            variable: told[text.removeprefix("${{ inputs.").removesuffix(" }}")] or ""
            for variable, text in STEPS[name]["env"].items()
        }
        surroundings = {
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "PATH": f"{shims}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", STEPS[name]["run"]],
            cwd=tmp_path,
            env=os.environ | surroundings | given,
            capture_output=True,
            text=True,
        )

    return call


def test_the_actions_steps_draw_measure_and_pass_and_fail_where_the_model_is_worse(
    run, tmp_path: Path
) -> None:
    for folder, options in (("good", "--steps 10 --precision bf16 --batch-size 50"), ("bad", "--steps 2")):
        for step in ("Sample", "Evaluate"):
            done = run(step, folder=folder, num=100, sample_options=options)
            assert done.returncode == 0, done.stderr
    baseline = "good/result.json"
    plan = json.loads((tmp_path / baseline).read_text("utf-8"))["samples"]["plan"]
    assert (plan["precision"], plan["batch_size"]) == ("bf16", 50)
    assert run("Check", folder="good", baseline=baseline).returncode == 0
    worse = run("Check", folder="bad", baseline=baseline)
    assert worse.returncode == 1, worse.stderr
    assert worse.stdout.startswith("::error title=dit-eval check::")
    assert "worse" in (tmp_path / "summary.md").read_text("utf-8")


def test_the_example_gives_the_action_inputs_that_it_has_and_all_that_it_requires() -> None:
    inputs = ACTION["inputs"]
    assert example().keys() <= inputs.keys()
    assert {name for name, entry in inputs.items() if entry.get("required")} <= example().keys()


def test_the_example_passes_against_a_baseline_recorded_as_it_says(run, tmp_path: Path) -> None:
    inputs = {name.replace("-", "_"): value for name, value in example().items()} | {"num": 64}
    for step in ("Sample", "Evaluate"):
        done = run(step, **inputs)
        assert done.returncode == 0, done.stderr
    (tmp_path / "dit-eval" / "result.json").rename(tmp_path / "baseline.json")
    assert run("Evaluate", **inputs).returncode == 0
    done = run("Check", **inputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gflops" in (tmp_path / "summary.md").read_text("utf-8")


@pytest.mark.parametrize("step", STEPS)
def test_no_step_pastes_an_input_into_its_script(step: str) -> None:
    """An input in the text of a script could run as a command; inputs come as variables."""
    assert "${{" not in STEPS[step]["run"]
