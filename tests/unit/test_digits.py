"""The bundled digits: network, protocol, reference, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import AssetError, BatchError, StatisticsError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.features.digits import DigitsNetwork, load_digits_network
from dit_eval.features.resize import no_resize
from dit_eval.io import assets
from dit_eval.io.batches import open_images
from dit_eval.io.npz import members, write_npz
from tests.command import assert_one_sentence, dit_eval
from tools.memorisation import share_of_copies

REFERENCE = assets.folder("reference_stats") / "digits.npz"


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    arrays = members(REFERENCE)
    return arrays["arr_0"].read(), arrays["arr_1"].read()


@pytest.mark.parametrize("kind", ["models", "reference_stats"])
def test_bundled_files_are_those_of_the_manifest_and_small(kind: assets.Kind) -> None:
    bundled = [asset for asset in assets.manifest(kind).values() if asset.bundled]
    assert bundled
    for asset in bundled:
        path = assets.fetch(asset, offline=True)
        assert asset.sha256 == assets.sha256(path)
        assert asset.bytes == path.stat().st_size < 4e6


def test_the_reference_is_the_data_rounded_as_samples_are(digits) -> None:
    load_digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits
    images, labels = digits
    data = load_digits()
    np.testing.assert_array_equal(labels, data.target)
    np.testing.assert_array_equal(
        images, np.repeat((data.images * 15.9375 + 0.5)[..., None], 3, -1).astype(np.uint8)
    )


def test_the_network_classifies_the_digits(digits) -> None:
    images, labels = digits
    network = load_digits_network(assets.fetch(assets.lookup("models", "digits-features")))
    with torch.inference_mode():
        pool, spatial, probabilities = network(no_resize(torch.from_numpy(images)))
    assert (pool.shape[1], spatial.shape[1], probabilities.shape[1]) == network.dimensions
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(images)))
    assert float((probabilities.argmax(1).numpy() == labels).mean()) > 0.99


def test_one_image_has_the_features_that_it_has_among_others(digits) -> None:
    network = DigitsNetwork().eval()
    images = no_resize(torch.from_numpy(digits[0][:5]))
    with torch.inference_mode():
        for together, alone in zip(network(images), network(images[2:3]), strict=True):
            torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-6)


def test_the_reference_chooses_its_protocol(tmp_path: Path, digits) -> None:
    write_npz(tmp_path / "a.npz", {"arr_0": digits[0]})
    result = evaluate(tmp_path / "a.npz", "digits", device="cpu")
    assert result is not None
    assert result.protocol["name"] == "digits"
    assert result.protocol["weights"]["official"]
    assert abs(result.metrics["fid"]) < 1e-6
    assert result.metrics["precision"] == result.metrics["recall"] == 1
    assert not result.warnings


def test_the_rank_of_the_covariance_is_that_of_the_protocol(tmp_path: Path, digits) -> None:
    write_npz(tmp_path / "a.npz", {"arr_0": digits[0][:63]})
    result = evaluate(tmp_path / "a.npz", "digits", device="cpu")
    assert result is not None
    assert "63 samples for 64 features" in result.warnings[0]


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"arr_0": np.zeros((5, 16, 16, 3), np.uint8)})
    with pytest.raises(BatchError, match="images of 8×8 pixels; these have 16×16"):
        evaluate(tmp_path / "a.npz", "digits", device="cpu")


def test_other_weights_are_refused_by_the_bundled_statistics(tmp_path: Path, digits) -> None:
    weights = {name: 2 * value for name, value in DigitsNetwork().state_dict().items()}
    torch.save(weights, tmp_path / "other.pth")
    write_npz(tmp_path / "a.npz", {"arr_0": digits[0][:10]})
    with pytest.raises(StatisticsError, match="holds statistics of protocol digits"):
        evaluate(tmp_path / "a.npz", "digits", inception=tmp_path / "other.pth", device="cpu")


@pytest.mark.parametrize("command", ["fid", "sweep"])
def test_another_protocol_than_the_references_is_refused_before_its_network_is_looked_for(
    tmp_path: Path, digits, command: str
) -> None:
    write_npz(tmp_path / "a.npz", {"arr_0": digits[0][:10]})
    vary = ("--model", "digits", "--vary", "cfg=1,2", "--out", tmp_path / "s")
    arguments = {"fid": (tmp_path / "a.npz", "digits"), "sweep": ("--against", "digits", *vary)}[command]
    run = dit_eval(command, *arguments, "--protocol", "adm", "--offline")
    assert_one_sentence(run)
    assert "digits holds statistics of protocol digits, and --protocol is adm. Leave out" in run.stderr
    assert "ref make IMAGES --protocol adm" in run.stderr


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(AssetError, match="does not contain the weights of the digits"):
        load_digits_network(tmp_path / "other.pth")


def test_the_weights_of_another_network_are_refused_in_a_sentence_however_many_keys_they_have(
    tmp_path: Path,
) -> None:
    torch.save({f"block.{i}.convolution.weight": torch.zeros(1) for i in range(500)}, tmp_path / "other.pth")
    with pytest.raises(AssetError) as error:
        load_extraction("digits", inception=tmp_path / "other.pth", device="cpu")
    assert len(str(error.value).replace(str(tmp_path), "")) < 240


def test_the_variable_sets_the_weights_of_the_inception_and_of_no_other_network(
    tmp_path: Path, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIT_EVAL_INCEPTION", str(tmp_path / "variable.pth"))
    write_npz(tmp_path / "a.npz", {"arr_0": digits[0][:100]})
    result = evaluate(tmp_path / "a.npz", "digits", device="cpu")
    assert result is not None
    assert result.protocol["weights"]["official"]
    run = CliRunner().invoke(main, ["doctor", str(tmp_path / "a.npz"), "digits", "--device", "cpu"])
    assert run.exit_code == 0, run.output
    for protocol in ("adm", "clean"):
        with pytest.raises(AssetError, match=r"variable\.pth: no such file"):
            load_extraction(protocol, device="cpu")
        with pytest.raises(AssetError, match=r"argument\.pth: no such file"):
            load_extraction(protocol, inception=tmp_path / "argument.pth", device="cpu")


def test_a_reference_keeps_labels_and_says_how_it_was_made(tmp_path: Path, digits) -> None:
    images, labels = digits
    write_npz(tmp_path / "a.npz", {"arr_0": images[:100], "arr_1": labels[:100]})
    make_reference(tmp_path / "a.npz", tmp_path / "ref.npz", protocol="digits", device="cpu")
    arrays = members(tmp_path / "ref.npz")
    np.testing.assert_array_equal(arrays["arr_1"].read(), labels[:100])
    assert json.loads(str(arrays["provenance"].read()))["protocol"]["name"] == "digits"


def test_the_bundled_reference_is_what_ref_make_makes_of_its_images(tmp_path: Path, digits) -> None:
    write_npz(tmp_path / "digits-images.npz", dict(zip(("arr_0", "arr_1"), digits, strict=True)))
    make_reference(tmp_path / "digits-images.npz", tmp_path / "ref.npz", protocol="digits", device="cpu")
    made, bundled = members(tmp_path / "ref.npz"), members(REFERENCE)
    assert made.keys() == bundled.keys()
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        np.testing.assert_allclose(made[name].read(), bundled[name].read(), rtol=1e-4, atol=1e-4)


def test_an_array_that_is_not_one_integer_for_each_image_is_not_read_as_labels(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8, 3), np.uint8)
    for name, array in (("short", np.zeros(4, int)), ("float", np.zeros(5)), ("wide", np.zeros((5, 2), int))):
        write_npz(tmp_path / f"{name}.npz", {"arr_0": images, "arr_1": array})
        assert open_images(tmp_path / f"{name}.npz").labels() is None


def test_copies_are_samples_closer_to_the_data_than_its_closest_images_are_to_each_other() -> None:
    training = np.arange(100.0)[:, None] * np.array([[1.0, 0.0]])  # nearest images at distance 1
    samples = np.array([[3.0, 0.0], [3.0, 0.5], [3.0, 1.5], [500.0, 0.0]])
    assert share_of_copies(samples, training) == 0.5
    assert share_of_copies(training, training) == 1
