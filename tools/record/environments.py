"""The virtual environments in which the original programs run, with the recorded versions of packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dit_eval.errors import AssetError, DitEvalError, UsageError
from tools.record.quantities import Quantities, load
from tools.record.sources import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]  # of the repository
VARIABLES = {  # one thread, no progress bars, and the plain attention of the versions of timm of the time
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TIMM_FUSED_ATTN": "0",
    "TQDM_DISABLE": "1",
}
_VERSIONS = (
    "import json, platform, sys; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) if name != 'python' else platform.python_version() "
    "for name in sys.argv[1:]}))"
)


class RunFailedError(DitEvalError):
    """An original program, or what runs it, has failed or was ended."""


class Environment:
    """A virtual environment in `folder`, for programs whose recorded versions agree."""

    def __init__(self, folder: Path, recorded: Mapping[str, str], packages: Sequence[str]) -> None:
        """recorded: name → version, with that of Python. packages: names of others, of any version."""
        self.folder, self.python = folder, folder / "bin" / "python"
        self.interpreter = "python" + recorded["python"].rpartition(".")[0]
        pinned = (f"{name}=={version}" for name, version in recorded.items() if name != "python")
        self.requirements = [*pinned, *packages]

    def create(self) -> None:
        """Create it and install its packages, unless that has been done. Raises UsageError or AssetError."""
        done = self.folder / "requirements.txt"
        wanted = "\n".join(self.requirements)
        if done.is_file() and done.read_text("utf-8") == wanted:
            return
        interpreter = shutil.which(self.interpreter)
        if interpreter is None:
            raise UsageError(
                f"{self.interpreter} is not on the PATH, and the programs were run with it. Install it."
            )
        for command in (
            [interpreter, "-m", "venv", "--clear", self.folder],
            [self.python, "-m", "pip", "install", "--quiet", *self.requirements],
        ):
            if subprocess.run(command, check=False).returncode:
                raise AssetError(
                    f"{self.folder} could not be created: {' '.join(map(str, command))} failed, see above."
                )
        done.write_text(wanted, "utf-8")

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """The installed versions of these packages, and of Python for "python"."""
        command = [self.python, "-c", _VERSIONS, *names]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def run(self, runner: str, programs: Sequence[Path], *arguments: str) -> Quantities:
        """What a runner records. programs: the folders from which the originals are imported.

        The runner sees the recipes in tests/golden and the original; nothing else of this project is
        imported. Raises RunFailedError.
        """
        path = os.pathsep.join(map(str, (*programs, ROOT)))  # the original first: it may be called `models`
        with TemporaryDirectory(dir=self.folder) as work:
            ran = subprocess.run(
                [self.python, "-m", f"tools.record.{runner}", "recorded.npz", *arguments],
                cwd=work,
                env=os.environ | VARIABLES | {"PYTHONPATH": path},
                check=False,
            )
            if ran.returncode:
                raise RunFailedError(
                    f"{' '.join((runner, *arguments))} ended with exit code {ran.returncode}."
                )
            return load(Path(work, "recorded.npz"))


def environments(folder: Path, recorded: Mapping[str, Any], torch: str | None) -> dict[str, Environment]:
    """By name. recorded: "programs" of expected.json. torch: its version if not the recorded one."""
    versions: dict[str, dict[str, str]] = {}
    packages: dict[str, list[str]] = {}
    for name, program in PROGRAMS.items():
        versions.setdefault(program.environment, {}).update(recorded[name]["versions"])
        packages.setdefault(program.environment, []).extend(program.packages)
    if torch is not None:
        versions["torch"]["torch"] = torch
    return {name: Environment(folder / name, versions[name], packages[name]) for name in versions}
