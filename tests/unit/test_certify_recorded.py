"""`dit-eval certify --recorded` with its fast checks; tests/oracle/test_certify_faults.py has the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dit_eval.diagnostics import certify_recorded
from dit_eval.diagnostics.certificate import Certificate, CertifiedGroup
from dit_eval.diagnostics.recorded import comparison, dit_weights, evaluation_checks, sampling_checks
from dit_eval.diagnostics.recorded.setup import Setup
from dit_eval.sampling import schedules
from tests.command import Ran, assert_one_sentence, dit_eval

FAST = ("schedules", "paths", "noise")
CUDA = torch.device("cuda")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the checks that take no time."""
    checks = {name: certify_recorded.CHECKS[name] for name in FAST}
    monkeypatch.setattr(certify_recorded, "CHECKS", checks)


def certify(out: Path, *more: object) -> Ran:
    return dit_eval("certify", "--device", "cpu", "--out", out / "certificate.json", *more)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "certificate.json").read_text("utf-8"))


def test_recorded_numbers_hold_and_the_certificate_says_where(fast: None, tmp_path: Path) -> None:
    run = certify(tmp_path, "--recorded")
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip().endswith("Every number holds.")
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "coefficients of x0" in run.stdout
    certificate = read(tmp_path)
    assert (certificate["schema"], certificate["kind"], certificate["holds"]) == (1, "recorded", True)
    assert [check["name"] for check in certificate["checks"]] == list(FAST)
    betas = certificate["checks"][0]["numbers"]["betas"]
    assert betas.keys() == {"recorded", "found", "difference", "tolerance", "measure", "verdict"}
    environment = certificate["environment"]
    assert environment["device"] == "CPU"
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert str(environment["processor"]) in run.stdout


def test_one_wrong_beta_exits_1_and_is_named(
    fast: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    betas = schedules.linear_betas()
    betas[500] *= 1 + 1e-6
    monkeypatch.setattr(schedules, "linear_betas", lambda: betas)
    run = certify(tmp_path, "--recorded")
    assert run.returncode == 1, run.stderr
    sentence = " ".join(run.stdout.split("Does not hold:")[1].split())
    assert "schedules betas" in sentence
    assert "timesteps" not in sentence
    assert "paths" not in sentence
    certificate = read(tmp_path)
    assert not certificate["holds"]
    assert certificate["checks"][0]["numbers"]["betas"]["verdict"] == "off"


@pytest.mark.parametrize("options", [("--recorded", "--only", "adm-64"), ("--full",)])
def test_options_of_both_halves_are_refused(fast: None, options: tuple[str, ...], tmp_path: Path) -> None:
    run = certify(tmp_path, *options)
    assert_one_sentence(run)
    assert "choose one half" in run.stderr


def test_the_recorded_half_is_refused_under_torchrun(
    fast: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = certify(tmp_path, "--recorded")
    assert_one_sentence(run)
    assert "without torchrun" in run.stderr


@pytest.mark.parametrize("full", [False, True])
def test_only_full_runs_the_full_rank(monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    nothing = {name: lambda setup: [] for name in certify_recorded.CHECKS}
    monkeypatch.setattr(certify_recorded, "CHECKS", nothing)
    groups = certify_recorded.certify_recorded(device="cpu", full=full).groups
    skipped = {"networks in tf32"} | (set() if full else {"2,560 + 2,560 images"})
    assert {group.name for group in groups} == nothing.keys() - skipped


def test_recorded_numbers_that_are_not_finite_are_off_and_null_in_json() -> None:
    recorded = np.ones(3, np.float32)
    for measure in (comparison.L2, comparison.LARGEST, comparison.ELEMENTWISE, comparison.ABSOLUTE):
        number = comparison.array("array", recorded, recorded * np.nan, 1.0, measure=measure)
        assert number.outcome == "off"
        assert number.to_json("recorded")["difference"] is None
    share = comparison.array("array", recorded, recorded * np.nan, 0.5, measure=comparison.SHARE_OFF)
    assert (share.difference, share.outcome) == (1, "off")
    number = comparison.scalar("fid", 1.0, float("inf"), 1.0, measure=comparison.RELATIVE)
    group = CertifiedGroup(name="300 + 300 images", numbers=(number,), details={})
    certificate = Certificate(kind="recorded", groups=(group,), date="")
    assert certificate.failed == ("300 + 300 images fid",)
    json.dumps(certificate.to_json(), allow_nan=False)


def test_differences_are_what_their_measures_say() -> None:
    recorded, found = np.array([3.0, -4.0, 0.0]), np.array([3.0, -4.5, 0.0])

    def difference(measure: str) -> float | None:
        return comparison.array("array", recorded, found, 1.0, measure=measure).difference

    assert difference(comparison.L2) == pytest.approx(0.5 / 5)
    assert difference(comparison.LARGEST) == pytest.approx(0.5 / 4)
    assert difference(comparison.ELEMENTWISE) == pytest.approx(0.5 / 4)
    assert difference(comparison.ABSOLUTE) == pytest.approx(0.5)
    assert difference(comparison.SHARE_OFF) == pytest.approx(1 / 3)


# Devices


@pytest.mark.parametrize(
    ("capability", "precisions"), [((7, 5), {"fp32"}), ((8, 0), {"fp32", "tf32", "bf16"})]
)
def test_precisions_that_a_gpu_only_emulates_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precisions: set[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    supported = {name for name in ("fp32", "tf32", "bf16") if certify_recorded._supports(CUDA, name)}
    assert supported == precisions


def test_the_driver_is_the_one_that_nvidias_command_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert certify_recorded._driver_version() is None
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    command.chmod(0o755)
    assert certify_recorded._driver_version() == "580.65.06"


class DevicesOfProducts(TorchDispatchMode):
    """Records the devices of matrix products, and of the noise's frexp; takes the values of fakes for 1."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "item"):
            return True
        if name in ("mm", "addmm", "bmm", "matmul", "linear", "frexp"):
            self.found |= {str(x.device.type) for x in args if isinstance(x, torch.Tensor) and x.dim()}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "check",
    [
        sampling_checks.noise,
        *(partial(sampling_checks.networks, precision=precision) for precision in ("fp32", "bf16")),
        partial(evaluation_checks.distances, case="fp16_outlier"),
    ],
    ids=["noise", "fp32", "bf16", "distances"],
)
def test_checks_compute_on_the_device(
    check: certify_recorded.Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With fake tensors on a CUDA device: one left on the CPU would raise. Small networks, two chains."""

    def to_numpy(x: torch.Tensor) -> np.ndarray:
        assert x.device.type == "cpu"
        return np.zeros(x.shape, str(x.dtype).removeprefix("torch."))

    monkeypatch.setattr(torch.Tensor, "numpy", to_numpy)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.delitem(dit_weights.CONFIGS, "S8")
    monkeypatch.delitem(sampling_checks._PASSES, "DiT-S/8")
    for chain in ("DDIM 10 steps", "SDE Euler 10 steps"):
        monkeypatch.delitem(sampling_checks._CHAINS, chain)
    with FakeTensorMode(allow_non_fake_inputs=True), DevicesOfProducts() as products:
        numbers = check(Setup(device=CUDA, folder=tmp_path))
    assert numbers
    assert products.found == {"cuda"}


# The package


def test_recipes_need_nothing_but_numpy() -> None:
    """So that tools/record can run them beside the original programs."""
    program = (
        "import sys\n"
        "from dit_eval.diagnostics.recorded import dit_weights, features, images, numbers\n"
        "from dit_eval.diagnostics.recorded import inception_weights\n"
        "assert not {'torch', 'scipy', 'click'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_every_package_in_a_certificate_is_a_dependency_of_an_installation() -> None:
    required = {
        re.split(r"[ ;<>=!~\[]", line)[0] for line in requires("dit-eval") or () if "extra ==" not in line
    }
    assert required >= set(certify_recorded._PACKAGES)
