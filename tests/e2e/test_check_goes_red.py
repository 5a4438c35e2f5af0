"""The check goes red where two results do not measure the same: drawn, measured and compared for real.

Another resize is in test_fid_command, where both protocols measure the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_eval.evaluation.pipeline import evaluate
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.npz import members, write_npz
from tests.command import Ran, dit_eval
from tests.tiny import CONFIG, TINY_VAE, save_tiny

DIGITS = assets.folder("reference_stats") / "digits.npz"
NUM = 24


def images(batch: Path) -> np.ndarray:
    return members(batch)["arr_0"].read()


def measured(batch: Path) -> Path:
    """The JSON of a batch's result, with the influences of its images in a second file."""
    result = evaluate(batch, "digits", device="cpu")
    assert result is not None
    path = batch.with_suffix(".result.json")
    result.save(path)
    return path


def check(result: Path, baseline: Path, *more: object) -> Ran:
    return dit_eval("check", result, "--baseline", baseline, *more)


def assert_refused(run: Ran, *differences: str) -> None:
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.count(";") + 1 == len(differences), run.stderr
    for difference in differences:
        assert difference in run.stderr


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two decoders of the same shape with other weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folders = [tmp_path_factory.mktemp("vae") for _ in range(2)]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        AutoencoderKL(**TINY_VAE).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory, vaes: list[Path]) -> Callable[..., Path]:
    """Draw a few images of 8×8 pixels with a tiny latent model."""
    folder = tmp_path_factory.mktemp("latent")
    weights = save_tiny(folder, in_channels=4, input_size=4, steps=30)

    def call(name: str, **options: object) -> Path:
        settings = {"ckpt": weights, "vae": vaes[0], "num": NUM, "steps": 4, "cfg": 4.0, "device": "cpu"}
        return generate(CONFIG, out=folder / f"{name}.npz", **(settings | options))  # type: ignore[arg-type]

    return call


@pytest.fixture(scope="module")
def baseline(draw: Callable[..., Path]) -> Path:
    return measured(draw("baseline"))


def test_the_same_again_is_green(draw: Callable[..., Path], baseline: Path) -> None:
    assert check(measured(draw("again")), baseline).returncode == 0


def test_guidance_on_four_channels_is_refused(draw: Callable[..., Path], baseline: Path) -> None:
    other = draw("four", cfg_channels="all")
    assert (images(other) != images(draw("baseline"))).any()
    assert_refused(check(measured(other), baseline), "guided channels (3 there, all here)")


def test_another_vae_is_refused(draw: Callable[..., Path], baseline: Path, vaes: list[Path]) -> None:
    other = draw("vae", vae=vaes[1])
    digests = [assets.sha256(vae / "diffusion_pytorch_model.safetensors")[:12] for vae in vaes]
    expected = "decoder (vae {}… there, vae {}… here)".format(*digests)
    assert_refused(check(measured(other), baseline), expected)


def test_fewer_images_are_refused(draw: Callable[..., Path], baseline: Path) -> None:
    """FID-10K is not FID-50K: an image of the batch is the same, the number is another."""
    other = draw("few", num=NUM // 2, batch_size=NUM // 2)
    assert_refused(check(measured(other), baseline), f"number of images ({NUM} there, {NUM // 2} here)")


def test_a_sorted_file_of_labels_is_refused(tmp_path: Path) -> None:
    settings = {"num": NUM, "steps": 5, "device": "cpu"}
    uniform = generate("digits", out=tmp_path / "uniform.npz", **settings)
    labels = np.sort(members(uniform)["arr_1"].read())
    np.savetxt(tmp_path / "labels.txt", labels, fmt="%d")
    ordered = generate("digits", out=tmp_path / "sorted.npz", labels=str(tmp_path / "labels.txt"), **settings)
    np.testing.assert_array_equal(members(ordered)["arr_1"].read(), labels)
    digest = assets.sha256(tmp_path / "labels.txt")[:12]
    assert_refused(
        check(measured(ordered), measured(uniform)), f"labels (uniform there, file {digest}… here)"
    )


def test_sorted_images_whose_labels_nobody_knows_have_a_worse_inception_score(tmp_path: Path) -> None:
    """More than a chunk of 5,000: the digits three times over, in random order and by class."""
    arrays = {name: np.tile(members(DIGITS)[name].read().T, 3).T for name in ("arr_0", "arr_1")}
    orders = {
        "shuffled": np.random.default_rng(0).permutation(len(arrays["arr_1"])),
        "sorted": np.argsort(arrays["arr_1"], kind="stable"),
    }
    for name, order in orders.items():
        write_npz(tmp_path / f"{name}.npz", {"arr_0": arrays["arr_0"][order]})
    shuffled, ordered = (measured(tmp_path / f"{name}.npz") for name in orders)
    assert check(shuffled, shuffled).returncode == 0
    run = check(ordered, shuffled, "--format", "github")
    assert run.returncode == 1, run.stderr
    assert "Failed: inception_score." in run.stdout
