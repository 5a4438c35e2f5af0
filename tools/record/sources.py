"""The original programs: which files are needed of each, and what they are by SHA-256.

tests/golden/expected.json names the repositories and commits. Files are fetched one by one, or copied from
checkouts, and none is run that differs from what was recorded.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dit_eval.errors import AssetError
from dit_eval.io.files import atomic_file

ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of the programs in expected.json."""

    runner: str  # the module of this package that runs it
    environment: str  # "tensorflow", "torch", or "samplers", with another torch
    folder: str = ""  # of its repository, from which its modules are imported
    packages: tuple[str, ...] = ()  # that it imports besides those whose versions are recorded
    files: Mapping[str, str]  # path in its repository → SHA-256


# Path in the repository → SHA-256
EVALUATOR_FILES = {
    "evaluations/evaluator.py": "c8f10ab1406c45d105d7f5b347e5be06c118bd2ddef1c54789c263ebae7f1ca7",
}
DIT_FILES = {
    "models.py": "1b8031a1340a3d1045c0bdb382334068f5f20e32edf67b3e6aba961ba91846ca",
    "diffusion/__init__.py": "0128da38ee27ab91b78458809f9c50d188d7377b60cc73d3ee777bca8029425d",
    "diffusion/diffusion_utils.py": "4bc929a713a1136bd96b5d88605f41707bf484fbabe448b0407764eb21502add",
    "diffusion/gaussian_diffusion.py": "d7d095d98ff4666e565d0a854790992e24cc09a4ac75e8eaae9a4ee186a8887b",
    "diffusion/respace.py": "9dde1492dd9d03e47caa12c7a7293dd7a5af1a79f3ddb0629f1692d97c856903",
}
SIT_FILES = {
    "models.py": "677cfa2cf5a7db122abd014d6d92d7ac5f39745f571773a6adcc26c7d2f33d89",
    "transport/__init__.py": "2e771651550c83bfc419c4964971a10b632aaf818ec1a7e5145d4ca09d649549",
    "transport/integrators.py": "d25a61340e0d36e61a4e6e542df039d560e60d566c451ed39cf8a670647d5e87",
    "transport/path.py": "298ae86a39d84d133cab517ddd25654631446652768c32b3729f6977753e86a1",
    "transport/transport.py": "8b813dfa9c95b4e128eb22942a40938551edd4601adf3b8b6b29c08fd1ea33d3",
    "transport/utils.py": "0c2682c0bbf4f56b99abd56627e0b5704ff910a5df56b37b49a9cfeb9aeb21e0",
}
CROP_FILES = {
    "guided_diffusion/image_datasets.py": "220d6699f1c201989209f1bd64f5a7d3beef41e84098607aa521ab21cf6700d5",
}
REPA_FILES = {
    "samplers.py": "6a76a56108a4dbd3fe193a67f5d56b55123230908b17e93cffebf58e89a917a2",
}
JIT_FILES = {
    "denoiser.py": "87dc437fd4d98637ba8dfa4d888cf05c4e60c03675ef0455e17f0866c004c459",
}
PROGRAMS = {
    "evaluator.py": Program(
        runner="run_evaluator",
        environment="tensorflow",
        folder="evaluations",
        packages=("requests", "tqdm"),
        files=EVALUATOR_FILES,
    ),
    "DiT": Program(runner="run_dit", environment="torch", files=DIT_FILES),
    "SiT": Program(runner="run_sit", environment="torch", packages=("tqdm",), files=SIT_FILES),
    "center_crop_arr": Program(
        runner="run_crop", environment="torch", folder="guided_diffusion", files=CROP_FILES
    ),
    "REPA": Program(runner="run_repa", environment="samplers", files=REPA_FILES),
    "JiT": Program(runner="run_jit", environment="samplers", files=JIT_FILES),
}


def collect(program: Program, repository: str, commit: str, checkouts: Path | None, into: Path) -> Path:
    """Put the verified files of a program below `into`; returns the folder from which it is imported.

    repository: OWNER/NAME. checkouts: a folder with a checkout NAME of each repository; None to download.
    Raises AssetError if a file is missing, cannot be downloaded or is not the recorded one.
    """
    root = into / repository.rpartition("/")[2]
    for path, sha256 in program.files.items():
        if checkouts is None:
            source = ADDRESS.format(repository=repository, commit=commit, path=path)
            content = _download(source)
        else:
            source = str(checkouts / root.name / path)
            content = _read(source, repository, commit)
        require_sha256(content, sha256, source, f"{repository} at {commit}")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(root / path, AssetError) as file:
            file.write(content)
    return root / program.folder


def require_sha256(content: bytes, expected: str, source: str, origin: str) -> None:
    """Raise AssetError unless the content of `source` has this checksum."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise AssetError(
            f"{source} is not the file of {origin}: its SHA-256 is {found}, expected {expected}. "
            "A checkout must be at that commit and without local changes."
        )


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise AssetError(
            f"{url} could not be downloaded ({getattr(error, 'reason', None) or error}). "
            "Run again, or check the repositories out and name their folder with --sources."
        ) from None


def _read(path: str, repository: str, commit: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AssetError(
            f"{path} cannot be read ({error.strerror}). --sources expects a checkout of "
            f"{repository} at {commit} in the subfolder {repository.rpartition('/')[2]}."
        ) from None
