"""`dit-eval certify` where ADM's own program was run: case C in the place of the published files.

Samples, reference and the network's weights come from a server on this machine; the published numbers are
those that the original evaluator printed for them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dit_eval import assets
from tests.command import dit_eval
from tests.loopback import serving
from tests.shared import shared

RELATIVE = {"fid": 5e-6, "sfid": 5e-6, "inception_score": 1e-6}  # as in test_evaluator_golden


@pytest.mark.simulation  # another minute for the numbers of test_evaluator_golden, by another door
def test_the_numbers_that_adms_evaluator_printed_are_certified(
    golden_inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = json.loads(shared("golden", "expected.json").read_text("utf-8"))["case_C"]
    published = {name: case["adm_evaluator"][name] for name in RELATIVE}
    tolerance = {name: share * published[name] for name, share in RELATIVE.items()}
    for suffix, kind in (("", "pr_f32"), ("_float16", "pr_f16_f32acc")):
        for name in ("precision", "recall"):
            published[name + suffix], tolerance[name + suffix] = case[kind][name], 1 / 300 + 1e-9

    files = {
        "/samples.npz": shared("golden", "caseC_samples_64.npz"),
        "/ref.npz": shared("golden", "caseC_ref_64.npz"),
        "/inception.safetensors": golden_inception,
    }
    shutil.copytree(assets.folder("reference_stats"), tmp_path / "reference_stats")
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(assets, "folder", lambda kind: tmp_path / kind)
    out = tmp_path / "certificate.json"
    with serving({path: file.read_bytes() for path, file in files.items()}) as server:
        for manifest, name, path, more in (
            ("models/manifest.toml", "inception-2015-12-05", "/inception.safetensors", ""),
            ("reference_stats/manifest.toml", "case-c-ref", "/ref.npz", ""),
            (
                "reference_stats/certificates.toml",
                "case-c",
                "/samples.npz",
                'protocol = "adm"\nreference = "case-c-ref"\n'
                f"[case-c.published]\n{lines(published)}[case-c.tolerance]\n{lines(tolerance)}",
            ),
        ):
            digest = assets.sha256(files[path])
            (tmp_path / manifest).write_text(
                f'[{name}]\nurls = ["{server.url}{path}"]\nsha256 = "{digest}"\n{more}', "utf-8"
            )
        assets.manifest.cache_clear()
        try:
            run = dit_eval("certify", "--device", "cpu", "--out", out)
        finally:
            assets.manifest.cache_clear()
    assert run.returncode == 0, run.stdout + run.stderr
    (batch,) = json.loads(out.read_text("utf-8"))["batches"]
    assert batch["numbers"].keys() == published.keys()
    assert batch["result"]["protocol"]["name"] == "adm"
    assert batch["result"]["protocol"]["weights"]["official"]
    sides = batch["result"]["samples"]["n"], batch["result"]["reference"]["n"]
    assert sides == (300, 300)


def lines(numbers: dict[str, float]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in numbers.items())
