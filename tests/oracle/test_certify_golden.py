"""`dit-eval certify` with procedural images, on which ADM's own program was run, in place of published files.

Samples, reference and the network's weights come from a server on this machine; the published numbers are
those that the original evaluator printed for them; with one process and with two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dit_eval.diagnostics.recorded.numbers import expected
from dit_eval.io import assets
from tests.e2e.registered import torchrun
from tests.loopback import serving
from tests.recorded import save_images

RELATIVE = {"fid": 5e-6, "sfid": 5e-6, "inception_score": 5e-6}  # as in test_evaluator_golden


@pytest.fixture
def registry(golden_inception: Path, tmp_path: Path) -> Iterator[Path]:
    case = expected()["evaluator_on_images"]["300"]
    published = {name: case["adm_evaluator"][name] for name in RELATIVE}
    tolerance = {name: share * published[name] for name, share in RELATIVE.items()}
    for suffix, kind in (("", "f32"), ("_float16", "f16_f32acc")):
        for name in ("precision", "recall"):
            number = case["precision_recall"][kind][name]
            published[name + suffix], tolerance[name + suffix] = number, 1 / 300 + 1e-9

    files = {
        "/samples.npz": save_images(tmp_path / "samples.npz", "samples", 300, 64),
        "/ref.npz": save_images(tmp_path / "ref.npz", "reference", 300, 64),
        "/inception.safetensors": golden_inception,
    }
    shutil.copytree(assets.folder("reference_stats"), tmp_path / "reference_stats")
    (tmp_path / "models").mkdir()
    with serving({path: file.read_bytes() for path, file in files.items()}) as server:
        for manifest, name, path, more in (
            ("models/manifest.toml", "inception-2015-12-05", "/inception.safetensors", 'role = "features"\n'),
            ("reference_stats/manifest.toml", "procedural-ref", "/ref.npz", ""),
            (
                "reference_stats/certificates.toml",
                "procedural",
                "/samples.npz",
                'protocol = "adm"\nreference = "procedural-ref"\n'
                f"[procedural.published]\n{lines(published)}[procedural.tolerance]\n{lines(tolerance)}",
            ),
        ):
            digest = assets.sha256(files[path])
            (tmp_path / manifest).write_text(
                f'[{name}]\nurls = ["{server.url}{path}"]\nsha256 = "{digest}"\n{more}', "utf-8"
            )
        yield tmp_path


@pytest.mark.simulation  # another minute for the numbers of test_evaluator_golden, by another door
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_numbers_that_adms_evaluator_printed_are_certified(
    registry: Path, ranks: int, tmp_path: Path
) -> None:
    out = tmp_path / "certificate.json"
    arguments = ["certify", "--device", "cpu", "--out", out]
    run = torchrun(ranks, registry, *arguments, cache=tmp_path / "cache")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("Every number holds.") == 1
    (batch,) = json.loads(out.read_text("utf-8"))["batches"]
    assert len(batch["numbers"]) == len(RELATIVE) + 4  # precision and recall, exact and in float16
    assert batch["result"]["protocol"]["name"] == "adm"
    assert batch["result"]["protocol"]["weights"]["official"]
    sides = batch["result"]["samples"]["n"], batch["result"]["reference"]["n"]
    assert sides == (300, 300)
    assert batch["result"]["environment"]["processes"] == ranks


def lines(numbers: dict[str, float]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in numbers.items())
