"""`dit-eval fid` as users run it: results on stdout, one sentence and exit code 2 for mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dit_eval.diagnostics.recorded.images import image
from tests.command import assert_one_sentence, dit_eval

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_command_says_its_version_and_its_help_at_once() -> None:
    command = Path(sys.executable).with_name("dit-eval")
    for arguments, words in ((["--version"], "dit-eval"), (["fid", "--help"], "SAMPLES REF")):
        run = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=20)
        assert run.returncode == 0, run.stderr
        assert words in run.stdout


def images(path: Path, n: int, seed: int) -> Path:
    np.savez(path, np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return images(folder / "samples.npz", 6, 0), images(folder / "ref.npz", 5, 1)


def test_a_table_on_stdout_warnings_on_stderr_and_the_same_numbers_as_json(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    weights = ("--inception", golden_inception)
    table = dit_eval("fid", *pair, *weights, "--json", tmp_path / "result.json")
    assert table.returncode == 0, table.stderr
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert table.stderr.startswith("Warning: 6 samples for 2,048 features")
    printed = dit_eval("fid", *pair, *weights, "--json", "-")
    result = json.loads(printed.stdout)
    assert result["schema"] == 1
    assert result["metrics"] == json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert set(result["metrics"]) >= {"fid", "sfid", "inception_score", "precision", "recall"}
    assert result["samples"]["n"] == 6
    assert result["samples"]["cached"]
    assert result["reference"]["statistics"] == "computed"
    assert not result["protocol"]["weights"]["official"]


def test_a_statistics_only_reference_gives_fid_and_sfid_and_the_reason_for_the_rest(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    weights = ("--inception", golden_inception)
    made = dit_eval("ref", "make", pair[1], "--out", tmp_path / "made.npz", *weights)
    assert made.returncode == 0, made.stderr
    with np.load(tmp_path / "made.npz") as stored:
        np.savez(tmp_path / "bare.npz", **{key: stored[key] for key in stored.files if key != "arr_0"})
    whole, bare = (
        json.loads(dit_eval("fid", pair[0], tmp_path / name, *weights, "--json", "-").stdout)
        for name in ("made.npz", "bare.npz")
    )
    assert bare["metrics"]["fid"] == whole["metrics"]["fid"]
    assert set(bare["missing"]) >= {"precision", "recall"}
    assert "precision" not in bare["metrics"]


def test_the_clean_protocol_is_another_number_that_a_check_refuses_to_compare(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    adm, clean = (tmp_path / f"{name}.json" for name in ("adm", "clean"))
    for path in (adm, clean):
        weights = ("--inception", golden_inception)
        run = dit_eval("fid", *pair, *weights, "--protocol", path.stem, "--json", path)
        assert run.returncode == 0, run.stderr
    results = [json.loads(path.read_text("utf-8")) for path in (adm, clean)]
    assert len({result["protocol"]["fingerprint"] for result in results}) == 2
    assert len({result["metrics"]["fid"] for result in results}) == 2
    refused = dit_eval("check", clean, "--baseline", adm)
    assert_one_sentence(refused)
    assert "resize (tf1-bilinear there, clean-fid-bicubic here)" in refused.stderr


@pytest.mark.parametrize("name", ["samples.npz", "ref.npz"])
def test_damaged_input_is_one_sentence_exit_2_and_no_result(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path, name: str
) -> None:
    for path in pair:
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
    files = [tmp_path / path.name for path in pair]
    run = dit_eval("fid", *files, "--inception", golden_inception, "--json", tmp_path / "result.json")
    assert_one_sentence(run)
    assert name in run.stderr
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{samples}", "absent.npz"), "no such file"),
        (("{samples}", "imagenet-257"), "registered: imagenet-256"),
        (("{samples}", "{ref}", "--protocol", "jax"), "known: adm, clean"),
        (("{samples}", "{ref}", "--inception", "{ref}"), "cannot be read as weights"),
        (("{samples}", "{ref}", "--inception", "absent.pth"), "no such file"),
        (("{samples}", "{ref}", "--offline"), "--offline forbids the download"),
        (("{samples}", "{ref}", "--batch-size", "0"), "0 is not in the range"),
        (("{samples}",), "Missing argument 'REF...'"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_2(
    pair: tuple[Path, Path], arguments: tuple[str, ...], words: str
) -> None:
    filled = [argument.format(samples=pair[0], ref=pair[1]) for argument in arguments]
    run = dit_eval("fid", *filled)
    assert_one_sentence(run)
    assert words in run.stderr


def test_swapped_sides_are_refused_unless_told_otherwise(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    weights = ("--inception", golden_inception)
    dit_eval("ref", "make", pair[1], "--out", tmp_path / "made.npz", *weights)
    swapped = dit_eval("fid", tmp_path / "made.npz", pair[0], *weights)
    assert_one_sentence(swapped)
    assert "the order is SAMPLES REFERENCE" in swapped.stderr
    told = dit_eval("fid", tmp_path / "made.npz", pair[0], *weights, "--ignore-sample-statistics")
    assert told.returncode == 0, told.stderr


def test_three_images_are_too_few_for_the_radii(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    run = dit_eval("fid", images(tmp_path / "three.npz", 3, 2), pair[1], "--inception", golden_inception)
    assert_one_sentence(run)
    assert "at least 4 images on each side" in run.stderr


def test_weights_of_another_network_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import torch

    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    run = dit_eval("fid", *pair, "--inception", tmp_path / "other.pth")
    assert_one_sentence(run)
    assert "not those of Inception 2015-12-05" in run.stderr


def test_pth_and_safetensors_of_the_same_weights_give_the_same_numbers(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(golden_inception), tmp_path / "w.pth")
    results = [
        json.loads(dit_eval("fid", *pair, "--inception", weights, "--json", "-", "--no-cache").stdout)
        for weights in (golden_inception, tmp_path / "w.pth")
    ]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_the_pixels_of_a_folder_give_the_numbers_of_the_npz(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    from PIL import Image

    with np.load(pair[0]) as batch:
        for number, image in enumerate(batch["arr_0"]):
            Image.fromarray(image).save(tmp_path / f"{number}.png")
    results = [
        json.loads(dit_eval("fid", side, pair[1], "--inception", golden_inception, "--json", "-").stdout)
        for side in (pair[0], tmp_path)
    ]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_images_of_mixed_sizes_are_refused_by_name(golden_inception: Path, tmp_path: Path) -> None:
    from PIL import Image

    for number, size in enumerate((64, 64, 48, 64)):
        Image.fromarray(image("reference", number, size)).save(tmp_path / f"{number}.png")
    run = dit_eval("fid", tmp_path, tmp_path, "--inception", golden_inception)
    assert_one_sentence(run)
    assert "a batch has one size" in run.stderr
    assert "2.png" in run.stderr


def test_the_record_of_a_batch_is_taken_in_if_it_is_of_these_images_and_is_never_overwritten(
    pair: tuple[Path, Path], golden_inception: Path, tmp_path: Path
) -> None:
    from dit_eval.io.batches import open_images

    batch, record = tmp_path / "batch.npz", tmp_path / "batch.json"
    batch.write_bytes(pair[0].read_bytes())
    plan = {"model": "tiny", "cfg": 1.5, "image_size": 16, "sampler": "ddpm"}
    facts = {"plan": plan, "digest": open_images(batch).digest(), "macs": 31}
    record.write_text(json.dumps(facts))

    arguments = ("fid", batch, pair[1], "--inception", golden_inception)
    refused = dit_eval(*arguments, "--json", record)
    assert_one_sentence(refused)
    assert "records how" in refused.stderr
    assert json.loads(record.read_text()) == facts

    report = tmp_path / "report.html"
    samples = json.loads(dit_eval(*arguments, "--json", "-", "--report", report).stdout)["samples"]
    assert (samples["plan"], samples["macs"]) == (plan, 31)
    assert "tiny (cfg=1.50)" in report.read_text("utf-8")

    record.write_text(json.dumps({**facts, "digest": "0" * 64}))
    other = dit_eval(*arguments, "--json", tmp_path / "result.json")
    assert "describes other images" in other.stderr
    assert "plan" not in json.loads((tmp_path / "result.json").read_text())["samples"]


def test_photographs_of_any_size_are_a_reference_and_samples(tmp_path: Path) -> None:
    from PIL import Image

    photographs = tmp_path / "photographs"
    for number in range(12):
        inside = photographs / f"n{number % 2}"
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image("reference", number, 32)[: 20 + number]).save(inside / f"{number}.png")
    options = ("--image-size", 8, "--crop", "center", "--protocol", "digits", "--device", "cpu")
    made = dit_eval("ref", "make", photographs, "--out", tmp_path / "ref.npz", *options)
    assert made.returncode == 0, made.stderr
    assert made.stderr.count("Warning: ") == 1
    assert "2 class folders in sorted order (n0 … n1)" in made.stderr
    run = dit_eval("fid", photographs, tmp_path / "ref.npz", *options, "--json", "-")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["samples"]["crop"] == result["reference"]["provenance"]["crop"] == "center"
    assert result["samples"]["digest"] == result["reference"]["digest"]
    assert result["metrics"]["fid"] == pytest.approx(0, abs=1e-6)
    uncropped = dit_eval("fid", photographs, tmp_path / "ref.npz", *options[4:])
    assert_one_sentence(uncropped)
    assert "--image-size" in uncropped.stderr


@pytest.mark.slow
def test_ranks_measure_by_several_protocols_in_one_pass(
    pair: tuple[Path, Path], golden_inception: Path
) -> None:
    arguments = ("fid", *pair, "--protocol", "adm", "--protocol", "clean", "--device", "cpu", "--json", "-")
    arguments = (*map(str, arguments), "--inception", str(golden_inception))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    one = json.loads(dit_eval(*arguments, "--no-cache").stdout)
    for cached in (False, True):
        two = subprocess.run(
            [*launcher, "-m", "dit_eval", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert two.returncode == 0, two.stderr
        found = json.loads(two.stdout)
        assert [result["samples"]["cached"] for result in found] == [cached, cached]
        for result, expected in zip(found, one, strict=True):
            assert result["protocol"] == expected["protocol"]
            assert result["samples"] | {"cached": False} == expected["samples"]
            assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)


@pytest.mark.slow
def test_ranks_put_classes_and_what_lies_inside_together_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 100, (41, 8, 8, 1), dtype=np.uint8).repeat(3, axis=3)
    white_class_0 = noise.copy()
    white_class_0[::4] = 255  # far from all other images
    for name, batch in (("samples", white_class_0), ("ref", noise)):
        np.savez(tmp_path / f"{name}.npz", arr_0=batch, arr_1=np.arange(41) % 4)
    arguments = ("fid", "samples.npz", "ref.npz", "--protocol", "digits", "--no-cache", "--device", "cpu")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3")
    three = subprocess.run(
        [*launcher, "-m", "dit_eval", *arguments, "--json", "-"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert three.returncode == 0, three.stderr
    single = dit_eval(*arguments, "--json", "-")
    found = json.loads(three.stdout)["classes"]
    assert found == json.loads(single.stdout)["classes"]
    assert found["precision"] == {"label": [0, 1, 2, 3], "n": [11, 10, 10, 10], "inside": [0, 10, 10, 10]}


def test_an_output_into_a_folder_that_is_not_there_is_refused_before_the_work(
    pair: tuple[Path, Path],
) -> None:
    for option in ("--json", "--report"):
        run = dit_eval("fid", *pair, option, "absent/file")
        assert_one_sentence(run)
        assert "its folder does not exist" in run.stderr
