"""The precision in which this package computes, whatever the calling program has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dit_eval.errors import UsageError

PRECISIONS = ("fp32", "tf32", "bf16")

# torch's settings by backend and operator. Where an operator's is "none", that of "all" operators of its
# backend applies, and where that is "none" too, the generic one.
_PARENTS = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
_MATMUL = (("cuda", "matmul"), ("mkldnn", "matmul"))
_OTHERS = (("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "conv"), ("mkldnn", "rnn"))


def default_precision(device: torch.device) -> str:
    """The precision of sampling if none is requested: TF32 on CUDA, as in DiT's released code, else fp32."""
    return "tf32" if device.type == "cuda" else "fp32"


@contextmanager
def computation(precision: str, device: torch.device) -> Iterator[None]:
    """Within the block, no setting of the caller changes the numbers that are computed on the device.

    Autocast is off, float32 is the default dtype and cuDNN deterministic. Products and convolutions of
    float32 run in full precision for "fp32", else in TF32 on a CUDA device. With "bf16" that concerns what
    stays in float32, such as the VAE. Afterwards everything is as the caller has set it, by torch's legacy
    flags or by operator.
    Raises UsageError for "tf32" on a CPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UsageError("tf32 is a format of CUDA devices; choose --precision fp32 or bf16.")
    tf32 = precision != "fp32" and device.type == "cuda"
    with _no_autocast("cpu"), _no_autocast(device.type), _process_settings("tf32" if tf32 else "ieee"):
        yield


@contextmanager
def _no_autocast(device_type: str) -> Iterator[None]:
    """Disable autocast in this thread."""
    enabled = torch.is_autocast_enabled(device_type)
    torch.set_autocast_enabled(device_type, False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device_type, enabled)


_lock = threading.Lock()
_requested: list[str] = []  # the precision on CUDA of every open block, of all threads
_ambient: _AmbientSettings


@contextmanager
def _process_settings(cuda: str) -> Iterator[None]:
    """Replace the settings that all threads share; the last block to end restores them.

    While blocks of several threads request different precisions, all of them compute in full precision.
    """
    global _ambient
    with _lock:
        if not _requested:
            _ambient = _AmbientSettings()
        _requested.append(cuda)
        _ambient.replace(min(_requested))
    try:
        yield
    finally:
        with _lock:
            _requested.remove(cuda)
            if _requested:
                _ambient.replace(min(_requested))
            else:
                _ambient.restore()


class _AmbientSettings:
    """The caller's settings of this process."""

    def __init__(self) -> None:
        self._precisions: dict[tuple[str, str], str] = {}
        for setting in (*_PARENTS, *_MATMUL):
            self._precisions[setting] = _precision(setting)  # its own value: its parents are "none" by now
            _set_precision(setting, "none")
        self._legacy_matmul = torch.get_float32_matmul_precision()  # raises unless these are "none"
        cudnn = torch.backends.cudnn
        self._cudnn = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
        self._dtype = torch.get_default_dtype()

    def replace(self, cuda: str) -> None:
        """Compute in full precision, on CUDA devices as given: "ieee" or "tf32"."""
        torch.set_float32_matmul_precision("high" if cuda == "tf32" else "highest")
        for setting in (*_PARENTS, *_MATMUL, *_OTHERS):
            wanted = cuda if setting[0] == "cuda" else "ieee"
            if _precision(setting) != wanted:
                # The setting of an operator may be unset, which is not "none" and cannot be restored
                self._precisions.setdefault(setting, _precision(setting))
                _set_precision(setting, wanted)
        _set_cudnn(enabled=True, benchmark=False, deterministic=True)
        torch.set_default_dtype(torch.float32)

    def restore(self) -> None:
        """Set everything as it was."""
        torch.set_float32_matmul_precision(self._legacy_matmul)
        for setting, precision in self._precisions.items():
            _set_precision(setting, precision)
        _set_cudnn(*self._cudnn)
        torch.set_default_dtype(self._dtype)


def _precision(setting: tuple[str, str]) -> str:
    return torch._C._get_fp32_precision_getter(*setting)


def _set_precision(setting: tuple[str, str], precision: str) -> None:
    torch._C._set_fp32_precision_setter(*setting, precision)


def _set_cudnn(enabled: bool, benchmark: bool, deterministic: bool) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = enabled, benchmark, deterministic
