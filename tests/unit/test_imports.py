"""The dependency rules between the folders of the package, and what importing it may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dit_eval"
MODULES = sorted(PACKAGE.rglob("*.py"))

GENERATION = ("dit_eval.sampling", "dit_eval.dit", "dit_eval.generation")
EVALUATION = ("dit_eval.features", "dit_eval.metrics", "dit_eval.evaluation")
FILES = ("pathlib", "PIL", "dit_eval.io")

# Folder → what its modules must not import. Generation and evaluation meet only at the npz.
FORBIDDEN = {
    "sampling": (*EVALUATION, *FILES, "dit_eval.dit", "dit_eval.generation"),
    "dit": (*EVALUATION, "dit_eval.sampling", "dit_eval.generation"),
    "generation": EVALUATION,
    "features": (*GENERATION, "dit_eval.metrics", "dit_eval.evaluation"),
    "metrics": (*GENERATION, *FILES, "dit_eval.features", "dit_eval.evaluation"),
    "evaluation": GENERATION,
    "results": ("dit_eval.dit", "dit_eval.generation", "torch", "dit_eval.features", "dit_eval.evaluation"),
    "report": (*GENERATION, *EVALUATION, "torch"),
    "cost": EVALUATION,
    "io": (*GENERATION, *EVALUATION, "torch", "dit_eval.results", "dit_eval.report"),
    "runtime": (*GENERATION, *EVALUATION, *FILES, "dit_eval.results", "dit_eval.report"),
    "errors.py": ("dit_eval",),
}
NETWORK = ("urllib.request", "urllib.error", "requests", "http", "socket", "huggingface_hub")


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


def violations(path: Path, package: Path = PACKAGE) -> list[str]:
    """What a module imports against the rules of its folder."""
    relative = path.relative_to(package)
    rules = FORBIDDEN.get(relative.parts[0], ())
    if str(relative) != "io/assets.py":
        rules = (*rules, *NETWORK)
    return [name for name in sorted(imported(path)) if any(within(name, rule) for rule in rules)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_rules_of_the_folder(path: Path) -> None:
    assert violations(path) == []


@pytest.mark.parametrize("folder", [folder for folder in FORBIDDEN if not folder.endswith(".py")])
def test_a_forbidden_import_is_found(folder: str, tmp_path: Path) -> None:
    assert (PACKAGE / folder).is_dir()
    (tmp_path / folder).mkdir()
    module = tmp_path / folder / "new.py"
    for rule in FORBIDDEN[folder]:
        module.write_text(f"def late():\n    from {rule}.somewhere import thing\n")
        assert violations(module, tmp_path) == [f"{rule}.somewhere", f"{rule}.somewhere.thing"]
    module.write_text("import urllib.request\n")
    assert violations(module, tmp_path) == ["urllib.request"]


def test_the_package_root_has_five_files() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "cli.py", "errors.py", "version.py"}


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


def test_public_names_are_there() -> None:
    import dit_eval

    for name in dit_eval.__all__:
        assert getattr(dit_eval, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dit_eval.nothing
