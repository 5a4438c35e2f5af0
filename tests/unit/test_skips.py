"""The gate accepts no silent skip: the hooks of tests/conftest.py, in a project of one test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
SETTINGS = '[tool.pytest.ini_options]\naddopts = "-m \'not simulation\'"\nmarkers = ["simulation: slow"]\n'


def run(folder: Path, tier: str, source: str, *, ci: bool = True) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file of this tier."""
    (folder / "tests" / tier).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(SETTINGS)
    shutil.copy(CONFTEST, folder / "tests")
    (folder / "tests" / tier / "test_it.py").write_text(f"import pytest\n{source}")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env=environment | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
    )


def skipped(reason: str) -> str:
    return f"@pytest.mark.skipif(True, reason='{reason}')\ndef test_it(): pass\ndef test_other(): pass\n"


@pytest.mark.parametrize("tier", ["oracle", "e2e"])
@pytest.mark.parametrize(
    "source", [skipped("no data here"), "pytest.skip('no data here', allow_module_level=True)\n"]
)
def test_a_skip_of_a_test_that_must_run_fails_the_gate_and_is_named(
    tmp_path: Path, tier: str, source: str
) -> None:
    done = run(tmp_path, tier, source)
    assert done.returncode != 0
    _, named = done.stdout.split("skipped, but must run where CI is set")
    assert f"tests/{tier}/test_it.py" in named
    assert "no data here" in named


@pytest.mark.parametrize(
    ("tier", "reason", "ci"),
    [
        ("oracle", "needs a GPU", True),
        ("e2e", "needs Chromium to open a page", True),
        ("unit", "no data here", True),
        ("oracle", "no data here", False),
    ],
)
def test_other_skips_are_accepted(tmp_path: Path, tier: str, reason: str, ci: bool) -> None:
    done = run(tmp_path, tier, skipped(reason), ci=ci)
    assert done.returncode == 0, done.stdout
    assert "must run" not in done.stdout


def test_a_run_without_the_slow_tests_names_them(tmp_path: Path) -> None:
    done = run(tmp_path, "oracle", "@pytest.mark.simulation\ndef test_slow(): pass\ndef test_other(): pass\n")
    assert done.returncode == 0, done.stdout
    _, named = done.stdout.split("left to `make slow`")
    assert "tests/oracle/test_it.py::test_slow" in named
    assert "test_other" not in named
