"""The shell commands of README.md and docs/ run in an empty folder, so that they cannot become outdated.

Every ```sh block of a page is run, from top to bottom in one folder, unless an HTML comment before it says
`<!-- not run: … -->` with the reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n+)?^```(?:sh|bash|console)\n(?P<code>.*?)^```$", re.M | re.S
)


def blocks(page: Path) -> list[str]:
    return [match["code"] for match in BLOCK.finditer(page.read_text("utf-8")) if not match["skip"]]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_an_empty_folder(page: Path, tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(blocks(page))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_the_readme_and_a_page_on_regression_have_commands_that_run() -> None:
    assert len([page for page in PAGES if blocks(page)]) >= 3


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_a_block_with_a_reason_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a GPU -->\n\n```sh\nfalse\n```\n\n```sh\ntrue\n```\n\n```python\n1\n```\n"
    )
    assert blocks(page) == ["true\n"]
