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
    environment: str  # "tensorflow", "torch", or "samplers" and "encoders", with another torch
    folder: str = ""  # of its repository, from which its modules are imported
    packages: tuple[str, ...] = ()  # that it imports besides those whose versions are recorded
    needs: tuple[str, ...] = ()  # other programs that it imports
    files: Mapping[str, str]  # path in its repository → SHA-256


# Path in the repository → SHA-256
EVALUATOR_FILES = {
    "evaluations/evaluator.py": "c8f10ab1406c45d105d7f5b347e5be06c118bd2ddef1c54789c263ebae7f1ca7"
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
    "guided_diffusion/image_datasets.py": "220d6699f1c201989209f1bd64f5a7d3beef41e84098607aa521ab21cf6700d5"
}
REPA_FILES = {"samplers.py": "6a76a56108a4dbd3fe193a67f5d56b55123230908b17e93cffebf58e89a917a2"}
JIT_FILES = {"denoiser.py": "87dc437fd4d98637ba8dfa4d888cf05c4e60c03675ef0455e17f0866c004c459"}
DINOV2_FILES = {
    "dinov2/__init__.py": "0d2b87b7e71c7f7279ccc4b4f8b541d26071425284a0ea01a5a435fac4511cfe",
    "dinov2/hub/__init__.py": "2932e94a2d67be87b717c49468214c1127be7864aedf37f5891d26be7bc1437f",
    "dinov2/hub/backbones.py": "11c3b7e3da2a843ba5953191e8fc2027b37490313dfb315c0d4ad1a0ea31d27d",
    "dinov2/hub/utils.py": "c0533919016531b320bf9aef7cd7001249bc8ef8957cdb29246c15b67d5abdf8",
    "dinov2/layers/__init__.py": "1b55deed39d5ab0b589bef421bbfe06f24a10cd590a0f8403234c9ee4e34109d",
    "dinov2/layers/attention.py": "79c7be7a452b3aad96698ec38d5d5150b9f4d8ac084fa93324510dc9f624775d",
    "dinov2/layers/block.py": "60c0ac7dfa4474be313fabfa5a23d82faf6f0cecd4e720a88be35de9788cb636",
    "dinov2/layers/dino_head.py": "9fdb1fa61c0609dc0876f711f9d0d828c33bf9fd972aab3d9c968d44e16b98d1",
    "dinov2/layers/drop_path.py": "b9f8236e86054b9d9a71275efcad2a9ecaa1f86b529d4b8d6109ddb5e806f67a",
    "dinov2/layers/layer_scale.py": "dadd5aafe178f1bf72a205a02a6645c7e635cacbad585d4a7369c200c6e89135",
    "dinov2/layers/mlp.py": "255825c73b60a916dd00eb1e38aacbcdbf316e40d6a005efb46e245b7edb43aa",
    "dinov2/layers/patch_embed.py": "40da6add3d811198ea3e17cb99cdd4e5cda59e369efbbe3d18d89308618cf142",
    "dinov2/layers/swiglu_ffn.py": "e46d2948fb97e497cf991ff82ce30cb59b59fdf2e12a19568417113716b4f119",
    "dinov2/models/__init__.py": "87b360c71997314f41be1c497cc42326fc32617d3a2840f2f19d3795ca8b85ee",
    "dinov2/models/vision_transformer.py": "495c685c6da47452fd6b2ef0d2e04563e6cfc9a090ff5dec3c5b4386bb7cdf30",
}
EDM2_FILES = {
    "calculate_metrics.py": "e4faee1c01156f9ec4d9811a81289a50b808e6b73ed29331293d1b01a781b84d",
    "generate_images.py": "4550b05fe2f206754fab278526c1ac5efc909e8b334d55861980f4b08894bf93",
    "dnnlib/__init__.py": "d6cfe75cdc48736ecc1defdd4cbdedba94be14a2e1f90f21b32f91a7e0916c03",
    "dnnlib/util.py": "fa2bff71d999706764a0a309ee78c1e639b614b785a03d40aa6e2d15c23b2d1a",
    "torch_utils/__init__.py": "e6191415d4ee726a2b18a639811070d39e5b8fc46bad388b4cc11795e60129b2",
    "torch_utils/distributed.py": "f8353316e7440d7c8955f37e5e3cc0216a826417cfbb61b72f647be8a70eed24",
    "torch_utils/misc.py": "2d2db83d436984ff1682ed55854088acdc8299ce2215686734fd16e07f466905",
    "torch_utils/training_stats.py": "87889392a6cf0888f5aa61265c3b7f53f110a78e3fc79fb73ff2b712d4ea05ee",
    "training/__init__.py": "e6191415d4ee726a2b18a639811070d39e5b8fc46bad388b4cc11795e60129b2",
    "training/dataset.py": "5bca8f0d967aec0238d96c6a3586e883eb4534d26d1a24dedcd7e80bf61715a2",
}
DGM_EVAL_FILES = {
    "dgm_eval/models/dinov2.py": "a8ea73a7cc235aea08f129bd5d8a62bf8164d9c1cf1540e669478f01a492d4e6",
    "dgm_eval/models/encoder.py": "83afc867dc92490856a11d8b75fe99dd9740b7a04a6cea5b61b837c51fa2bf9a",
    "dgm_eval/resizer.py": "3e09c24ea4fc1393b9b683fa8de382fa0c09cc3cf205839df01a2f3bd534de28",
}
FD_LOSS_FILES = {
    "frechet_distance/repr_models.py": "61cfe922561cac3a95525c034fda3cfa3d54f928ad990a25a4a5da49ab9ec0b2",
    "utils/perception_util.py": "5902ba241756ae575fc3551255a4904f3287dbd61d28eeb27a4e4dba11ac4ead",
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
    "DINOv2": Program(runner="run_encoders", environment="encoders", files=DINOV2_FILES),
    "EDM2": Program(
        runner="run_encoders",
        environment="encoders",
        packages=("click", "requests", "tqdm"),
        needs=("DINOv2",),
        files=EDM2_FILES,
    ),
    "dgm-eval": Program(
        runner="run_encoders", environment="encoders", needs=("DINOv2",), files=DGM_EVAL_FILES
    ),
    "FD-Loss": Program(
        runner="run_encoders", environment="encoders", packages=("requests", "tqdm"), files=FD_LOSS_FILES
    ),
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
