"""The wheel works where nothing but its dependencies is installed, outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path) -> str:
    ran = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_the_bundled_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"dit_eval/cli.py", "dit_eval/report/page.html", "dit_eval/py.typed"} <= names
    assert "dit_eval/_assets/models/digits/digits.safetensors" in names
    assert "dit_eval/_assets/reference_stats/published.toml" in names
    assert "dit_eval/diagnostics/recorded/tensorflow_features.npz" in names
    assert not any(name.startswith(("tests/", "tools/", "benchmarks/")) for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=folder)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    # The dependencies of this environment, whose own .pth files (the editable install) are not read there
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", "utf-8")
    origin = run(python, "-c", "import dit_eval; print(dit_eval.__file__)", cwd=folder)
    assert origin.strip() == str(site / "dit_eval" / "__init__.py")
    return python.with_name("dit-eval")


def test_the_installed_wheel_runs_the_smallest_demo_outside_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    options = ("demo", "--num-samples", 20, "--device", "cpu", "--out", "demo")
    printed = run(installed, *options, cwd=tmp_path)
    assert "digits-sit (cfg=1.50)" in printed
    assert (tmp_path / "demo" / "report.html").is_file()


@pytest.mark.slow
def test_the_installed_wheel_certifies_this_machine_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    printed = run(installed, "certify", "--recorded", "--device", "cpu", cwd=tmp_path)
    assert "Every number holds." in printed
    certificate = json.loads((tmp_path / "certificate.json").read_text("utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.json"]
    assert {check["name"] for check in certificate["checks"]} == {
        *("inputs", "TensorFlow features", "moments", "frozen features", "float16 overflow"),
        *("schedules", "paths", "noise", "networks in fp32", "networks in bf16", "300 + 300 images"),
    }
    assert all(check["numbers"] for check in certificate["checks"])
