"""References: what is read, what is refused, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dit_eval.errors import BatchError, StatisticsError, UsageError
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.evaluation.references import has_statistics, open_reference, require_same_protocol
from dit_eval.evaluation.stats_files import merge
from dit_eval.features.digits import DigitsNetwork
from dit_eval.io import assets
from dit_eval.io.npz import members

IMAGES = np.zeros((5, 8, 8, 3), np.uint8)
STATISTICS = {"mu": np.zeros(4), "sigma": np.eye(4), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_images_statistics_or_both_are_found(tmp_path: Path) -> None:
    both = open_reference(saved(tmp_path / "both.npz", arr_0=IMAGES, **STATISTICS))
    assert both.images is not None
    assert both.pool is not None
    assert both.spatial is not None
    images = open_reference(saved(tmp_path / "images.npz", arr_0=IMAGES))
    assert images.images is not None
    assert images.pool is None
    assert images.statistics_digest() is None
    statistics = open_reference(saved(tmp_path / "statistics.npz", **STATISTICS))
    assert statistics.images is None
    assert statistics.statistics_digest() == both.statistics_digest()


def test_samples_with_statistics_are_recognised(tmp_path: Path) -> None:
    assert has_statistics(saved(tmp_path / "a.npz", arr_0=IMAGES, **STATISTICS))
    assert not has_statistics(saved(tmp_path / "b.npz", arr_0=IMAGES))


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"other": IMAGES}, BatchError, r"neither images \('arr_0'\) nor statistics"),
        ({"mu": np.zeros(4)}, StatisticsError, "has 'mu' but no 'sigma'"),
        ({"sigma": np.eye(4)}, StatisticsError, "has 'sigma' but no 'mu'"),
        ({"mu": np.zeros(4), "sigma": np.eye(5)}, StatisticsError, "do not match"),
        ({"mu": np.zeros(4, int), "sigma": np.eye(4)}, StatisticsError, "expected floating-point"),
        ({"mu": np.full(4, np.nan), "sigma": np.eye(4)}, StatisticsError, "NaN or infinity"),
        ({"arr_0": IMAGES, "provenance": np.array("{]")}, BatchError, "its provenance is not the JSON"),
        ({"arr_0": IMAGES, "provenance": np.array("[1]")}, BatchError, "its provenance is not the JSON"),
        ({"arr_0": IMAGES, "provenance": np.array("3")}, BatchError, "its provenance is not the JSON"),
        ({"arr_0": IMAGES, "provenance": np.array(3)}, BatchError, "its provenance is not the JSON"),
        ({"arr_0": IMAGES, "provenance": np.array("[" * 9000)}, BatchError, "its provenance is not the JSON"),
        ({"arr_0": IMAGES, "provenance": np.array('{"protocol": 3}')}, BatchError, "its provenance is not"),
        ({"arr_0": IMAGES, "provenance": np.array('{"protocol": {}}')}, BatchError, "its provenance is not"),
        ({"arr_0": IMAGES, "provenance": np.array('{"n": "many"}')}, BatchError, "its provenance is not"),
        ({"arr_0": IMAGES, "provenance": np.array('{"n": NaN}')}, BatchError, "its provenance is not"),
        (
            {"arr_0": IMAGES, "provenance": np.array('{"protocol": {"name": 1, "fingerprint": "a"}}')},
            BatchError,
            "its provenance is not",
        ),
    ],
)
def test_files_that_are_no_reference_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_reference(saved(tmp_path / "a.npz", **arrays))


def test_an_unknown_name_says_which_are_registered() -> None:
    with pytest.raises(UsageError, match="registered: imagenet-256"):
        open_reference("imagenet-255")


def test_a_file_that_is_not_there_is_not_taken_for_a_name() -> None:
    with pytest.raises(BatchError, match="no such file or folder"):
        open_reference("absent.npz")


def test_statistics_of_another_protocol_are_refused(tmp_path: Path) -> None:
    provenance = '{"protocol": {"name": "clean", "fingerprint": "0123456789ab"}}'
    path = saved(tmp_path / "a.npz", arr_0=IMAGES, **STATISTICS, provenance=np.array(provenance))
    reference = open_reference(path)
    require_same_protocol(reference, {"name": "clean", "fingerprint": "0123456789ab"})
    with pytest.raises(StatisticsError, match=r"statistics of protocol clean .* this run uses protocol adm"):
        require_same_protocol(reference, {"name": "adm", "fingerprint": "ba9876543210"})


@pytest.mark.parametrize("name", ["ref.npz.1", "REF.NPZ", "download"])
def test_statistics_count_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    bundled = assets.folder("reference_stats") / "digits.npz"
    path, samples = tmp_path / name, saved(tmp_path / "a.npz", arr_0=members(bundled)["arr_0"].read()[:70])
    path.write_bytes(bundled.read_bytes())
    result = evaluate(samples, path, device="cpu")
    assert result is not None
    assert result.reference["statistics"] == "stored"
    assert result.reference["provenance"]["n"] == 1797
    assert result.protocol["name"] == "digits"
    with pytest.raises(UsageError, match="carries stored statistics"):
        evaluate(path, samples, device="cpu")
    weights = {key: 2 * value for key, value in DigitsNetwork().state_dict().items()}
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(StatisticsError, match="holds statistics of protocol digits"):
        evaluate(samples, path, inception=tmp_path / "other.pth", device="cpu")


def test_a_local_path_with_the_name_of_a_registered_reference_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_reference("digits").notes == ()
    saved(tmp_path / "images.npz", arr_0=IMAGES).rename(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    (note,) = open_reference("digits").notes
    assert note.startswith(f"the reference is the local {tmp_path / 'digits'}, not the registered digits")
    assert open_reference("./digits").notes == ()


def test_a_reference_from_python_that_is_no_path_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="reference is of type NoneType; expected a path"):
        open_reference(None)  # type: ignore[arg-type]


def test_statistics_of_another_number_of_features_are_not_added(tmp_path: Path) -> None:
    provenance = np.array('{"n": 5, "protocol": {"name": "clean", "fingerprint": "0123456789ab"}}')
    other = STATISTICS | {"mu": np.zeros(5), "sigma": np.eye(5)}
    files = [
        saved(tmp_path / f"{number}.npz", **statistics, provenance=provenance)
        for number, statistics in enumerate((STATISTICS, other))
    ]
    with pytest.raises(StatisticsError, match=r"of 4 pool and 3 spatial features and .* 5 pool"):
        merge(files, tmp_path / "sum.npz")
