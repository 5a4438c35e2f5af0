"""The arrows of the house: who may import whom, and what an import may not do."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dit_eval"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folder or module → what it must not import, at any depth of the file.
FORBIDDEN = {
    "sampling": ("dit_eval.features", "dit_eval.metrics"),
    "dit": ("dit_eval.features", "dit_eval.metrics", "dit_eval.sampling"),
    "features": ("dit_eval.sampling", "dit_eval.dit", "dit_eval.metrics"),
    "metrics": (
        "dit_eval.sampling",
        "dit_eval.dit",
        "dit_eval.features",
        "dit_eval.batches",
        "pathlib",
        "PIL",
    ),
    "errors.py": ("dit_eval",),
    "assets.py": ("torch", "numpy"),
    "npz.py": ("torch",),
    "batches.py": ("torch",),
    "results.py": ("torch", "numpy"),
    "check.py": ("torch", "dit_eval.sampling", "dit_eval.dit", "dit_eval.features"),
    "comparability.py": ("torch", "numpy"),
    "published.py": ("torch", "numpy"),
    "table2.py": ("torch", "numpy"),
    "report": (
        "torch",
        "dit_eval.dit",
        "dit_eval.sampling",
        "dit_eval.features",
        "dit_eval.metrics",
        "dit_eval.evaluate",
        "dit_eval.generate",
        "dit_eval.flops",
    ),
}
NETWORK = ("urllib", "requests", "http", "socket", "huggingface_hub")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def within(name: str, forbidden: str) -> bool:
    return name == forbidden or name.startswith(forbidden + ".")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    home = path.relative_to(PACKAGE).parts[0]
    names = imported(path)
    for forbidden in FORBIDDEN.get(home, ()):
        assert not [name for name in names if within(name, forbidden)], f"{home} imports {forbidden}"
    if home != "assets.py":
        assert not [name for name in names for part in NETWORK if within(name, part)], "only assets may fetch"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("cli.py", "commands"):
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "sys.exit", "click.echo", "quit"), f"line {node.lineno}"


def test_importing_the_package_or_its_help_loads_no_torch() -> None:
    program = (
        "import sys, dit_eval, dit_eval.cli\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'torch or scipy was loaded'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_public_function_keeps_its_name_when_the_module_of_that_name_is_imported() -> None:
    import dit_eval
    import dit_eval.generate
    from dit_eval.evaluate import make_reference

    assert inspect.isfunction(make_reference)
    assert inspect.isfunction(dit_eval.evaluate)
    assert inspect.isfunction(dit_eval.generate)


def test_public_names_are_there() -> None:
    import dit_eval

    for name in dit_eval.__all__:
        assert getattr(dit_eval, name) is not None
    for name in ("check", "evaluate", "generate"):  # once more, now that the modules of that name are loaded
        assert callable(getattr(dit_eval, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dit_eval.nothing
