"""`dit-eval certify --recorded` finds planted faults and names the numbers; and what reduced precision does.

Only the check that a fault concerns is run. One wrong beta is planted in tests/unit/test_certify_recorded.py,
and tests/e2e/test_wheel.py runs all checks on code without faults.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dit_eval.diagnostics import certify_recorded
from dit_eval.diagnostics.recorded import evaluation_checks, sampling_checks, setup
from dit_eval.features import resize
from dit_eval.features.inception import Inception
from dit_eval.features.network import Activations
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.runtime import onednn
from dit_eval.sampling.guidance import guided
from tests.command import dit_eval


@pytest.fixture
def failed(
    golden_inception: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], set[str]]:
    """The numbers of a check that the command names as off, with features at 64 pixels only."""
    monkeypatch.setattr(setup, "save_inception", lambda path: golden_inception)
    for module in (setup, evaluation_checks):
        monkeypatch.setattr(module, "SIZES", (64,))

    def run_check(check: str) -> set[str]:
        monkeypatch.setattr(certify_recorded, "CHECKS", {check: certify_recorded.CHECKS[check]})
        run = dit_eval("certify", "--recorded", "--device", "cpu", "--out", tmp_path / "certificate.json")
        assert run.returncode == (1 if "Does not hold" in run.stdout else 0), run.stderr
        sentence = " ".join(run.stdout.partition("Does not hold: ")[2].split()).rstrip(".")
        return {name.removeprefix(f"{check} ") for name in sentence.split(", ") if name}

    return run_check


def test_a_half_pixel_resize_is_found(
    failed: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_pixel(images: torch.Tensor) -> torch.Tensor:
        return F.interpolate(resize.no_resize(images), size=(299, 299), mode="bilinear", align_corners=False)

    monkeypatch.setitem(resize.RESIZES, "tf1-bilinear", resize.Resize(None, half_pixel))
    assert failed("TensorFlow features") == {"pool 64", "spatial 64", "softmax 64"}


def test_a_transposed_spatial_layout_is_found(
    failed: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Inception.forward

    def channels_first(self: Inception, x: torch.Tensor) -> Activations:
        pool, spatial, probabilities = forward(self, x)
        return Activations(pool, spatial.unflatten(1, (17 * 17, 7)).mT.flatten(1), probabilities)

    monkeypatch.setattr(Inception, "forward", channels_first)
    assert failed("TensorFlow features") == {"spatial 64"}


def test_n_instead_of_n_minus_1_is_found(
    failed: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gaussian = Moments.gaussian

    def biased(self: Moments) -> Gaussian:
        unbiased = gaussian(self)
        return Gaussian(unbiased.mean, unbiased.covariance * (self.n - 1) / self.n)

    monkeypatch.setattr(Moments, "gaussian", biased)
    assert failed("moments") == {"covariance"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_guidance_on_four_channels_is_found(
    failed: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    defaults = guided.__kwdefaults__
    assert defaults is not None
    assert defaults["channels"] == 3
    monkeypatch.setitem(defaults, "channels", 4)
    passes, chains = sampling_checks._PASSES, sampling_checks._CHAINS
    assert failed(f"networks in {precision}") == {*(f"{name} guided" for name in passes), *chains}


@pytest.mark.parametrize("check", ["TensorFlow features", "moments", "networks in fp32", "networks in bf16"])
def test_without_a_fault_these_checks_hold(failed: Callable[[str], set[str]], check: str) -> None:
    assert failed(check) == set()


@pytest.mark.parametrize("rounded", [True, False], ids=["rounded", "cut off"])
def test_products_of_tf32_stay_within_the_tolerance(
    rounded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Operands of every product brought to TF32's 10 bits on a CPU, as a tensor core may do it."""

    def tf32(x: torch.Tensor) -> torch.Tensor:
        bits = x.contiguous().view(torch.int32)
        return ((bits + 0x1000 if rounded else bits) & ~0x1FFF).view(torch.float32)

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> torch.Tensor:
        y = torch.addmm(bias, tf32(x).flatten(0, -2), tf32(weight).T).unflatten(0, x.shape[:-1])
        return F.gelu(y, approximate="tanh") if gelu else y

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = (tf32(q) @ tf32(k).mT / q.shape[-1] ** 0.5).softmax(-1)
        return tf32(weights) @ tf32(v)

    for name in ("_onednn_linear", "_plain_linear"):
        monkeypatch.setattr(onednn, name, linear)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    u = sampling_checks._UNIT_ROUNDOFF["tf32"]
    numbers = sampling_checks.networks(
        setup.Setup(device=torch.device("cpu"), folder=tmp_path), precision="fp32"
    )
    differences = {number.name: number.difference or 0 for number in numbers}
    largest = max(differences.values())
    assert (0.6 * u if rounded else 2 * u) < largest < (2 * u if rounded else 5 * u), differences
    assert min(differences.values()) > 0.4 * u, differences
