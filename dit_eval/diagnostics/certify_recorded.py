"""Compare what this machine computes with the numbers recorded from the original programs, offline."""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dit_eval.diagnostics.certificate import Certificate, CertifiedGroup, CertifiedNumber
from dit_eval.diagnostics.recorded import evaluation_checks, sampling_checks
from dit_eval.diagnostics.recorded.setup import Setup
from dit_eval.errors import UsageError
from dit_eval.generation.pipeline import processor_name
from dit_eval.runtime.distributed import Rank
from dit_eval.runtime.precision import PRECISIONS
from dit_eval.version import __version__

Check = Callable[[Setup], list[CertifiedNumber]]

CHECKS: Mapping[str, Check] = {
    "inputs": evaluation_checks.inputs,
    "TensorFlow features": evaluation_checks.inception_features,
    "moments": evaluation_checks.moments,
    "frozen features": evaluation_checks.metrics,
    "float16 overflow": partial(evaluation_checks.distances, case="fp16_outlier"),
    "schedules": sampling_checks.schedules,
    "paths": sampling_checks.paths,
    "noise": sampling_checks.noise,
    **{f"networks in {name}": partial(sampling_checks.networks, precision=name) for name in PRECISIONS},
    "300 + 300 images": partial(evaluation_checks.five_numbers, n=300, rtol=5e-6),
    "2,560 + 2,560 images": partial(evaluation_checks.five_numbers, n=2560, rtol=1e-6),
}
_PACKAGES = ("numpy", "scipy", "torch-fidelity", "safetensors", "pillow")


def certify_recorded(
    *,
    full: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    open_progress: Callable[[], AbstractContextManager[Callable[..., None] | None]] = nullcontext,
) -> Certificate:
    """Run every check that the device supports, in one process; about a minute.

    full: also 2,560 + 2,560 images, whose covariances have full rank; open_progress: a context manager that
    gives the callback for `evaluate`. Raises UsageError under torchrun and for a device that is not there.
    """
    rank, start = Rank.from_environment(), time.monotonic()
    if rank.count > 1:
        raise UsageError(
            f"the recorded numbers are compared by one process on one device, and there are {rank.count}. "
            "Run the command without torchrun."
        )
    torch_device = rank.device(device)
    skipped = {f"networks in {name}" for name in PRECISIONS if not _supports(torch_device, name)}
    if not full:
        skipped.add("2,560 + 2,560 images")
    with tempfile.TemporaryDirectory(prefix="dit-eval-") as folder, open_progress() as progress:
        setup = Setup(device=torch_device, folder=Path(folder), batch_size=batch_size, progress=progress)
        groups = tuple(_group(name, setup) for name in CHECKS if name not in skipped)
    return Certificate(
        kind="recorded",
        groups=groups,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        environment={**_machine(torch_device), "seconds": round(time.monotonic() - start, 1)},
    )


def _group(name: str, setup: Setup) -> CertifiedGroup:
    start = time.monotonic()
    numbers = tuple(CHECKS[name](setup))
    return CertifiedGroup(name=name, numbers=numbers, details={"seconds": round(time.monotonic() - start, 3)})


def _supports(device: torch.device, precision: str) -> bool:
    """Whether the device computes in this precision, and not only emulates it."""
    if device.type != "cuda":
        return precision != "tf32"
    if torch.version.cuda is None:  # AMD
        return precision != "tf32" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "fp32" or torch.cuda.get_device_capability(device) >= (8, 0)


def _machine(device: torch.device) -> dict[str, Any]:
    """The device with its driver, the libraries behind it, and the versions of the packages that compute."""
    cuda = {}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        cuda = {
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "driver": _driver_version(),
            "CUDA": torch.version.cuda,
            "HIP": torch.version.hip,
            "cuDNN": torch.backends.cudnn.version(),
        }
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        **{name: value for name, value in cuda.items() if value is not None},
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "dit-eval": __version__,
        "torch": torch.__version__,
        **{name: version(name) for name in _PACKAGES},
    }


def _driver_version() -> str | None:
    """The version of NVIDIA's driver, if its command says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(found.split()), None)
