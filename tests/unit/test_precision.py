"""No setting of the calling program changes a number, and every one of them is as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dit_eval
from dit_eval.errors import UsageError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.features.digits import DigitsNetwork
from dit_eval.features.extractor import NETWORKS, FeatureExtractor, Features
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.metrics.precision_recall import PrecisionRecall, precision_recall
from dit_eval.runtime.precision import computation
from tests.fake_cuda import fake_cuda
from tests.tiny_encoders import ENCODERS, EncoderOnCuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPERATORS = [(backend, operator) for backend in ("cuda", "mkldnn") for operator in ("matmul", "conv", "rnn")]
ALL = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all"), *OPERATORS]
DIGITS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
backends: Any = torch.backends


def fp32_precision(backend: str, operator: str) -> str:
    return torch._C._get_fp32_precision_getter(backend, operator)


def set_fp32_precision(backend: str, operator: str, precision: str) -> None:
    torch._C._set_fp32_precision_setter(backend, operator, precision)


def settings() -> dict[str, Any]:
    """All settings; "raises" for legacy flags that torch refuses to read because they contradict others."""
    legacy: dict[str, Callable[[], object]] = {
        "matmul": torch.get_float32_matmul_precision,
        "cublas": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
    }
    found: dict[str, Any] = {f"{backend}.{name}": fp32_precision(backend, name) for backend, name in ALL}
    for name, read in legacy.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "raises"
    return {
        **found,
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "cudnn choices": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "dtype": torch.get_default_dtype(),
    }


@pytest.fixture(autouse=True)
def torch_defaults() -> Iterator[None]:
    """Set torch's defaults again after every test."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    for setting in ALL:
        set_fp32_precision(*setting, "none")
    backends.cudnn.allow_tf32 = True
    backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic = True, False, False


@contextmanager
def made_by(*calls: Callable[[], object]) -> Iterator[None]:
    for call in calls:
        call()
    yield


@contextmanager
def autocast_on_cuda() -> Iterator[None]:
    """torch.autocast("cuda"), which does nothing where torch finds no device."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "torch's defaults": nullcontext,
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast on CUDA": autocast_on_cuda,
    **{
        name: partial(made_by, *calls)
        for name, calls in {
            "matmul high": [partial(torch.set_float32_matmul_precision, "high")],
            "matmul medium": [partial(torch.set_float32_matmul_precision, "medium")],
            "cuBLAS TF32": [partial(setattr, backends.cuda.matmul, "allow_tf32", True)],
            "no cuDNN TF32": [partial(setattr, backends.cudnn, "allow_tf32", False)],
            "generic tf32": [partial(setattr, backends, "fp32_precision", "tf32")],
            "generic bf16": [partial(setattr, backends, "fp32_precision", "bf16")],
            "generic ieee": [partial(setattr, backends, "fp32_precision", "ieee")],
            "cuda tf32": [partial(setattr, backends.cudnn, "fp32_precision", "tf32")],
            "cuda.matmul tf32": [partial(setattr, backends.cuda.matmul, "fp32_precision", "tf32")],
            "cuda.conv ieee": [partial(setattr, backends.cudnn.conv, "fp32_precision", "ieee")],
            "cuda.rnn none": [partial(setattr, backends.cudnn.rnn, "fp32_precision", "none")],
            "mkldnn bf16": [partial(set_fp32_precision, "mkldnn", "all", "bf16")],
            "mkldnn.matmul bf16": [partial(setattr, backends.mkldnn.matmul, "fp32_precision", "bf16")],
            "mkldnn.conv bf16": [partial(setattr, backends.mkldnn.conv, "fp32_precision", "bf16")],
            "both ways": [
                partial(torch.set_float32_matmul_precision, "medium"),
                partial(setattr, backends, "fp32_precision", "tf32"),
                partial(setattr, backends.mkldnn.matmul, "fp32_precision", "ieee"),
            ],
            "cuDNN benchmark": [partial(setattr, backends.cudnn, "benchmark", True)],
            "float64 by default": [partial(torch.set_default_dtype, torch.float64)],
            "bfloat16 by default": [partial(torch.set_default_dtype, torch.bfloat16)],
        }.items()
    },
}
ambient_settings = pytest.mark.parametrize("ambient", AMBIENT.values(), ids=AMBIENT)


# The settings themselves


@ambient_settings
@pytest.mark.parametrize(
    ("precision", "device", "on_cuda"),
    [
        ("fp32", CPU, "ieee"),
        ("fp32", CUDA, "ieee"),
        ("tf32", CUDA, "tf32"),
        ("bf16", CUDA, "tf32"),
        ("bf16", CPU, "ieee"),
    ],
)
def test_a_computation_sets_what_it_needs_and_restores_what_was_there(
    ambient: Callable[[], AbstractContextManager[object]], precision: str, device: torch.device, on_cuda: str
) -> None:
    with ambient():
        before = settings()
        with computation(precision, device):
            inside = settings()
        assert settings() == before
    for backend, operator in OPERATORS:
        assert inside[f"{backend}.{operator}"] == (on_cuda if backend == "cuda" else "ieee")
    assert inside["matmul"] == ("high" if on_cuda == "tf32" else "highest")  # torch's compiler reads it
    assert inside["cublas"] == (on_cuda == "tf32")
    assert inside["autocast"] == [False, device == CPU and before["autocast"][1]]
    assert inside["cudnn choices"] == (True, False, True)
    assert inside["dtype"] == torch.float32


@ambient_settings
def test_operators_follow_the_generic_setting_as_they_did_before(
    ambient: Callable[[], AbstractContextManager[object]],
) -> None:
    def with_generic(precision: str) -> dict[str, Any]:
        before = backends.fp32_precision
        backends.fp32_precision = precision
        found = settings()
        backends.fp32_precision = before
        return found

    with ambient():
        before = [with_generic(precision) for precision in ("tf32", "ieee", "none")]
        with computation("fp32", CUDA):
            pass
        assert [with_generic(precision) for precision in ("tf32", "ieee", "none")] == before


def test_settings_are_restored_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with pytest.raises(ZeroDivisionError), torch.autocast("cpu"), computation("fp32", CPU):
        _ = 1 / 0
    assert settings() == before


def test_threads_share_the_settings_until_the_last_of_them_has_finished() -> None:
    backends.fp32_precision = "tf32"
    before, inside = settings(), []
    entered, first_left = threading.Event(), threading.Event()

    def second() -> None:
        with computation("fp32", CUDA):
            entered.set()
            first_left.wait(10)
            inside.append(settings()["cuda.matmul"])

    thread = threading.Thread(target=second)
    with computation("tf32", CUDA):
        inside.append(settings()["cuda.matmul"])
        thread.start()
        entered.wait(10)
        inside.append(settings()["cuda.matmul"])
    first_left.set()
    thread.join()
    assert inside == ["tf32", "ieee", "ieee"]
    assert settings() == before


def test_tf32_needs_a_cuda_device() -> None:
    with pytest.raises(UsageError, match="tf32 is a format of CUDA devices"), computation("tf32", CPU):
        pass


# Numbers on a CPU


def digits_features() -> Features:
    return load_extraction("digits", device="cpu").extractor(DIGITS)


def inside() -> tuple[PrecisionRecall, PrecisionRecall]:
    reference, samples = np.random.default_rng(1).normal(size=(2, 300, 64)).astype(np.float32)
    return precision_recall(reference, samples), precision_recall(reference, samples, float16=True)


def test_the_settings_tried_here_change_what_torch_computes() -> None:
    """Otherwise the tests below would prove nothing."""
    x = torch.randn(300, 64)
    expected = x @ x.T
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal((x @ x.T).float(), expected)
    torch.set_default_dtype(torch.float64)
    assert torch.zeros(1).dtype == torch.float64


@ambient_settings
def test_features_and_distances_are_the_same_to_the_bit_within_every_ambient_setting(
    ambient: Callable[[], AbstractContextManager[object]],
) -> None:
    features, manifolds = digits_features(), inside()
    with ambient():
        before = settings()
        found, found_manifolds = digits_features(), inside()
        assert settings() == before
    for name in Features._fields:
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(found, name), getattr(features, name))
    for manifold, expected in zip(found_manifolds, manifolds, strict=True):
        np.testing.assert_array_equal(manifold.samples_inside, expected.samples_inside)
        np.testing.assert_array_equal(manifold.reference_inside, expected.reference_inside)
        np.testing.assert_array_equal(manifold.subset_recalls, expected.subset_recalls)


def test_inception_features_are_the_same_to_the_bit_under_autocast(golden_inception: Path) -> None:
    extractor = FeatureExtractor(PROTOCOLS["adm"], golden_inception, CPU)
    images = DIGITS[:2]
    expected = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(images)
    for name in Features._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    "name", ["autocast to bfloat16", "both ways", "float64 by default", "bfloat16 by default"]
)
def test_samples_and_their_evaluation_are_the_same_within_an_ambient_setting(
    name: str, tmp_path: Path
) -> None:
    def run(out: str) -> tuple[bytes, dict[str, float]]:
        batch = dit_eval.generate("digits", num=12, steps=3, out=tmp_path / out, device="cpu", batch_size=12)
        result = dit_eval.evaluate(batch, "digits", device="cpu", cache=False)
        assert result is not None
        return batch.read_bytes(), dict(result.metrics)

    expected = run("expected.npz")
    with AMBIENT[name]():
        before = settings()
        assert run("found.npz") == expected
        assert settings() == before


def test_networks_are_loaded_to_the_cpu_whatever_the_default_device_is() -> None:
    expected = digits_features()
    with torch.device("meta"):
        found = digits_features()
    np.testing.assert_array_equal(found.pool, expected.pool)


# Products on a CUDA device, without one


PRODUCTS = dict.fromkeys(
    ("mm", "addmm", "bmm", "matmul", "linear", "scaled_dot_product_attention"), "matmul"
) | dict.fromkeys(("conv2d", "convolution"), "conv")


class Products(TorchDispatchMode):
    """Records the dtypes of matrix products and convolutions, and the precision set for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = PRODUCTS.get(func.overloadpacket.__name__)
        if operator:
            dtypes = {str(x.dtype) for x in args if isinstance(x, torch.Tensor)}
            self.found.append((operator, fp32_precision("cuda", operator), "/".join(sorted(dtypes))))
        return func(*args, **(kwargs or {}))


class DigitsOnCuda(DigitsNetwork):
    """The network of the digits, made of fake tensors, which torch cannot move."""

    def __init__(self) -> None:
        with CUDA:
            super().__init__()

    def to(self, *_: Any, **__: Any) -> DigitsOnCuda:
        return self


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[tuple[str, str, str]]]:
    """Run a function with fake tensors on a CUDA device and return what `Products` found."""
    monkeypatch.setitem(NETWORKS, "fake", lambda _: DigitsOnCuda())
    monkeypatch.setattr("dit_eval.features.extractor.load_encoder", EncoderOnCuda)

    def run(function: Callable[[], object]) -> list[tuple[str, str, str]]:
        with fake_cuda(), Products() as products:
            function()
        return products.found

    return run


def extract_on_cuda() -> None:
    extractor = FeatureExtractor(replace(PROTOCOLS["digits"], network="fake"), Path("none"), CUDA)
    assert extractor(DIGITS).pool.shape == (40, 64)


def inside_on_cuda() -> None:
    reference, samples = np.zeros((2, 300, 64), np.float32)
    for float16 in (False, True):
        precision_recall(reference, samples, device="cuda", float16=float16)


@ambient_settings
@pytest.mark.parametrize(
    ("function", "operators"), [(extract_on_cuda, {"conv", "matmul"}), (inside_on_cuda, {"matmul"})]
)
def test_every_product_on_cuda_is_float32_in_full_precision(
    ambient: Callable[[], AbstractContextManager[object]],
    function: Callable[[], None],
    operators: set[str],
    on_cuda: Callable[[Callable[[], object]], list[tuple[str, str, str]]],
) -> None:
    with ambient():
        before = settings()
        products = on_cuda(function)
        assert settings() == before
    assert {operator for operator, _, _ in products} == operators
    assert {(precision, dtype) for _, precision, dtype in products} == {("ieee", "torch.float32")}


@ambient_settings
@pytest.mark.parametrize("name", ["dinov2", "fdr-mae", "fdr-siglip2", "fdr-convnext"])  # of every kind
def test_every_product_of_an_encoder_on_cuda_is_of_the_protocols_precision(
    name: str,
    ambient: Callable[[], AbstractContextManager[object]],
    on_cuda: Callable[[Callable[[], object]], list[tuple[str, str, str]]],
) -> None:
    def extract() -> None:
        extractor = FeatureExtractor(ENCODERS[name], Path("none"), CUDA)
        outputs = extractor.activations(DIGITS[:2])
        assert outputs.pool.shape == (2, extractor.dimensions[0])
        assert outputs.pool.dtype == torch.float32
        assert outputs.pool.device.type == "cuda"

    with ambient():
        before = settings()
        products = on_cuda(extract)
        assert settings() == before
    dtype = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[ENCODERS[name].precision]
    assert {operator for operator, _, _ in products} == {"conv", "matmul"}
    assert {(precision, dtypes) for _, precision, dtypes in products} == {("ieee", dtype)}


# Random numbers

RANDOM_STATES = """
import random, sys
from pathlib import Path
import numpy as np, torch
import dit_eval

def states():
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

before, out = states(), Path(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
dit_eval.evaluate([images], "digits", device="cpu").to_json()
assert states() == before, "evaluate"
dit_eval.count_flops("S/8")
assert states() == before, "count_flops"
dit_eval.generate("digits", num=2, steps=2, out=out, device="cpu")
assert states() == before, "generate"
"""


def test_random_number_generators_stay_as_they_are(tmp_path: Path) -> None:
    """In a process of its own, because modules may draw numbers while they are imported."""
    program = [sys.executable, "-c", RANDOM_STATES, tmp_path / "batch.npz"]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_loading_and_running_the_inception_draws_no_random_numbers(golden_inception: Path) -> None:
    before = torch.get_rng_state()
    FeatureExtractor(PROTOCOLS["adm"], golden_inception, CPU)(DIGITS[:1])
    assert torch.equal(torch.get_rng_state(), before)
