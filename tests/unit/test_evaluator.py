"""The Evaluator: the numbers of the file from batches in memory, whatever their form, ranks or order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dit_eval
from dit_eval import Evaluator
from dit_eval.errors import BatchError, StatisticsError, UsageError
from dit_eval.evaluation.image_arrays import as_uint8
from dit_eval.results.result import Result

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def evaluator(own_cache: Path) -> Evaluator:
    return Evaluator("digits", device="cpu", batch_size=16)


@pytest.fixture
def file_result(tmp_path: Path) -> Result:
    np.savez(tmp_path / "samples.npz", IMAGES, np.arange(60) % 10)
    result = dit_eval.evaluate(tmp_path / "samples.npz", "digits", device="cpu", batch_size=16)
    assert result is not None
    return result


def test_batches_give_the_numbers_of_the_file_exactly(evaluator: Evaluator, file_result: Result) -> None:
    evaluator.reset(expected=60)
    for start in range(0, 60, 16):
        evaluator.update(IMAGES[start : start + 16], labels=np.arange(start, min(start + 16, 60)) % 10)
    result = evaluator.compute()
    assert result.metrics == file_result.metrics
    assert result.intervals == file_result.intervals
    assert result.classes == file_result.classes
    assert result.samples["digest"] == file_result.samples["digest"]
    assert result.fingerprint == file_result.fingerprint


def test_a_second_compute_and_a_reset_give_the_same_numbers(evaluator: Evaluator) -> None:
    evaluator.update(IMAGES[:30])
    first = evaluator.compute()
    assert evaluator.compute().metrics == first.metrics
    evaluator.update(IMAGES[30:])
    both = evaluator.compute()
    assert both.samples["n"] == 60
    evaluator.reset()
    evaluator.update(IMAGES)
    assert evaluator.compute().metrics == pytest.approx(both.metrics, rel=1e-6)
    evaluator.reset()
    evaluator.update(IMAGES[:30])
    assert evaluator.compute().metrics == pytest.approx(first.metrics, rel=1e-6)


def test_images_in_another_order_of_arrival_are_put_in_order(
    evaluator: Evaluator, file_result: Result
) -> None:
    for start in (32, 0, 16, 48):
        evaluator.update_at(IMAGES[start : start + 16], start, None)
    result = evaluator.compute()
    assert result.metrics == pytest.approx(file_result.metrics, rel=1e-9)
    for name, influence in file_result.influence.items():
        np.testing.assert_allclose(result.influence[name], influence, rtol=1e-5, atol=1e-5)


FORMS: dict[str, Any] = {
    "channels first": (IMAGES.transpose(0, 3, 1, 2), {}),
    "tensor": (torch.from_numpy(IMAGES), {}),
    "tensor, channels first": (torch.from_numpy(IMAGES).permute(0, 3, 1, 2), {}),
    "floats in -1 … 1": (torch.from_numpy(IMAGES) / 127.5 - 1, {"value_range": (-1, 1)}),
    "floats in 0 … 1": ((IMAGES / 255.0).transpose(0, 3, 1, 2), {"value_range": (0, 1)}),
    "bfloat16 in 0 … 255": (torch.from_numpy(IMAGES).bfloat16(), {"value_range": (0, 255)}),
    "blue first": (np.ascontiguousarray((IMAGES / 255.0)[..., ::-1])[..., ::-1], {"value_range": (0, 1)}),
    "big-endian": ((IMAGES / 255.0).astype(">f4"), {"value_range": (0, 1)}),
    "read-only": (np.broadcast_to(IMAGES[:1], IMAGES.shape), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_are_taken_in_every_form(form: str) -> None:
    images, options = FORMS[form]
    expected = np.broadcast_to(IMAGES[:1], IMAGES.shape) if form == "read-only" else IMAGES
    np.testing.assert_array_equal(np.asarray(as_uint8(images, **options)), expected)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (None, {}, "the images are None; expected an array or a tensor"),
        ((IMAGES, 3), {}, "of type tuple; .*without labels"),
        (np.zeros((3, 8, 8, 3)), {}, "float64 3×8×8×3; expected uint8 .* or floats and their value_range"),
        (np.zeros((3, 8, 8, 3), np.int64), {"value_range": (0, 255)}, "int64 3×8×8×3; expected uint8"),
        (np.zeros((8, 8, 3), np.uint8), {}, "uint8 8×8×3; expected N×H×W×3"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "there is no image in it"),
        (torch.zeros(2, 3, 8, 8), {"value_range": (1, 1)}, r"expected \(lowest, highest\)"),
    ],
)
def test_what_is_no_batch_of_images_is_one_sentence(images: Any, options: Any, words: str) -> None:
    with pytest.raises((BatchError, UsageError), match=words):
        as_uint8(images, **options)


def test_wrong_calls_are_one_sentence_each(evaluator: Evaluator) -> None:
    with pytest.raises(BatchError, match=r"no images; call update\(\)"):
        evaluator.compute()
    evaluator.update(IMAGES[:3])
    with pytest.raises(StatisticsError, match="at least 4 images"):
        evaluator.compute()
    with pytest.raises(BatchError, match="9×8; expected 8×8, which"):
        evaluator.update(np.zeros((2, 8, 9, 3), np.uint8))
    with pytest.raises(BatchError, match="expected 2 integers, one per image"):
        evaluator.update(IMAGES[:2], labels=[1, 2, 3])
    evaluator.close()
    evaluator.close()
    for call in (evaluator.compute, lambda: evaluator.update(IMAGES)):
        with pytest.raises(UsageError, match="is closed"):
            call()
    with pytest.raises(UsageError, match="unknown metric 'fd'"):
        Evaluator("digits", device="cpu", metrics=["fd"])
    with pytest.raises(UsageError, match="there is no reference"):
        Evaluator([], device="cpu")


def test_without_intervals_the_values_are_the_same_and_nothing_else_is_kept(file_result: Result) -> None:
    with Evaluator("digits", device="cpu", batch_size=16, intervals=False) as evaluator:
        evaluator.update(IMAGES)
        result = evaluator.compute()
        assert result.metrics == file_result.metrics
        assert (result.intervals, dict(result.influence)) == ({}, {})
        assert len(evaluator._stats[0].spatial_features) == 0


def test_chosen_metrics_alone_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Evaluator("digits", device="cpu", metrics=["fid"]) as evaluator:
        monkeypatch.setattr("dit_eval.evaluation.metric_table.precision_recall", None)
        evaluator.update(IMAGES)
        assert {*evaluator.compute().metrics} == {"fid"}


def test_the_reference_is_loaded_factored_and_searched_once(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("open_reference", "load_extractions"):
        monkeypatch.setattr(f"dit_eval.evaluation.evaluator.{name}", None)
    manifold = "dit_eval.evaluation.prepared_reference.Manifold"
    from dit_eval.metrics.precision_recall import Manifold

    monkeypatch.setattr(manifold, lambda *args: calls.append(args) or Manifold(*args))
    evaluator.update(IMAGES)
    evaluator.compute()
    gaussian = evaluator._references[0][0].gaussian("pool")
    assert gaussian is not None
    factor = gaussian[0].factor("cpu")
    evaluator.compute()
    assert len(calls) == 2  # in float32 and in ADM's float16
    assert evaluator._references[0][0].gaussian("pool") is gaussian
    assert gaussian[0].factor("cpu") is factor


def test_nothing_of_the_program_changes(tmp_path: Path, own_cache: Path) -> None:
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    with torch.autocast("cpu", torch.bfloat16), Evaluator("digits", device="cpu") as evaluator:
        evaluator.update(torch.from_numpy(IMAGES) / 255, value_range=(0, 1))
        under_autocast = evaluator.compute()
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(np.random.get_state()) == states[2]  # noqa: NPY002
    assert not list(own_cache.rglob("*.npz"))
    with Evaluator("digits", device="cpu") as evaluator:
        evaluator.update(IMAGES)
        assert evaluator.compute().metrics == under_autocast.metrics


def test_several_references_measure_the_samples_once(tmp_path: Path) -> None:
    other = dit_eval.evaluation.pipeline.make_reference  # type: ignore[attr-defined]
    np.savez(tmp_path / "noise.npz", IMAGES[::-1] // 2)
    made = other(tmp_path / "noise.npz", tmp_path / "noise-ref.npz", protocol="digits", device="cpu")
    with Evaluator(["digits", made], device="cpu") as evaluator:
        evaluator.update(IMAGES)
        with pytest.raises(UsageError, match="several references"):
            evaluator.compute()
        results = evaluator.compute_all()
    for name, result in zip(("digits", str(made)), results, strict=True):
        with Evaluator(name, device="cpu") as alone:
            alone.update(IMAGES)
            assert alone.compute().metrics == result.metrics


def test_scalars_are_values_and_half_widths(evaluator: Evaluator) -> None:
    evaluator.update(IMAGES)
    result = evaluator.compute()
    scalars = result.scalars("eval/")
    assert scalars["eval/fid"] == result.metrics["fid"]
    assert scalars["eval/fid_half_width"] == result.half_width("fid")
    assert scalars["eval/fid_half_width"] > 0
    assert all(type(value) is float for value in scalars.values())


def test_a_failed_update_can_be_repeated(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after running out of memory in the third of four blocks: what was added stays counted."""
    extractor = evaluator.extractions[0].extractor
    activations, calls = extractor.activations, []

    def failing(images: np.ndarray) -> Any:
        calls.append(len(images))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return activations(images)

    monkeypatch.setattr(extractor, "activations", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluator.update(IMAGES)
    assert evaluator.n == 32
    evaluator.update(IMAGES[32:])
    assert evaluator.compute().samples["n"] == 60


def test_a_refused_batch_leaves_no_size_behind(evaluator: Evaluator) -> None:
    with pytest.raises(BatchError, match="evaluates images of 8×8"):
        evaluator.update(np.zeros((2, 9, 9, 3), np.uint8))
    evaluator.update(IMAGES)
    assert evaluator.compute().samples["n"] == 60


def test_close_frees_the_reference_at_once(evaluator: Evaluator) -> None:
    import gc
    import weakref

    evaluator.update(IMAGES)
    evaluator.compute()
    manifold = evaluator._references[0][0].manifold(False)
    assert manifold is not None
    freed = [
        weakref.ref(manifold),
        weakref.ref(evaluator._stats[0]),
        weakref.ref(extractor_network(evaluator)),
    ]
    del manifold
    gc.disable()
    try:
        evaluator.close()
        assert [reference() for reference in freed] == [None, None, None]
    finally:
        gc.enable()
    with pytest.raises(UsageError, match="is closed"):
        evaluator.reset()


def extractor_network(evaluator: Evaluator) -> torch.nn.Module:
    return evaluator.extractions[0].extractor._network


def test_images_of_the_reference_are_not_extracted_where_its_statistics_suffice() -> None:
    done: list[str] = []
    evaluator = Evaluator(
        "digits", device="cpu", metrics=["fid"], progress=lambda role, *_: done.append(role)
    )
    evaluator.update(IMAGES[:3])
    assert done == []
    only_fid = evaluator.compute()
    whole = dit_eval.evaluate(IMAGES[:10], "digits", device="cpu")
    assert whole is not None
    for name in ("statistics_sha256", "digest", "n"):
        assert only_fid.reference[name] == whole.reference[name]
    assert only_fid.fingerprint != ""


def test_without_intervals_further_metrics_have_none_either() -> None:
    names = ["kid", "density", "coverage", "mind"]
    with Evaluator("digits", device="cpu", metrics=names, intervals=False) as evaluator:
        evaluator.update(IMAGES)
        result = evaluator.compute()
        assert {*result.metrics} == {*names}
        assert (result.intervals, dict(result.influence)) == ({}, {})


def test_gaps_that_change_the_chunks_of_the_inception_score_are_refused(evaluator: Evaluator) -> None:
    evaluator.update_at(IMAGES[:30], 0, None)
    evaluator.update_at(IMAGES[30:], 5000, None)
    with pytest.raises(BatchError, match="unequal numbers of images"):
        evaluator.compute()


def test_one_reference_twice_gives_two_results() -> None:
    with Evaluator(["digits", "digits"], device="cpu", metrics="fid") as evaluator:
        evaluator.update(IMAGES)
        first, second = evaluator.compute_all()
    assert first.metrics == second.metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(evaluator: Evaluator, value: float) -> None:
    evaluator.update(torch.full((20, 3, 8, 8), value), value_range=(0, 1))
    with pytest.raises(BatchError, match="NaN or infinite"):
        evaluator.compute()
    evaluator.update(IMAGES)
    assert evaluator.compute().samples["n"] == 60


def test_values_out_of_range_are_a_warning_of_the_result(evaluator: Evaluator) -> None:
    evaluator.update(torch.from_numpy(IMAGES) / 127.5 - 1, value_range=(0, 1))
    warnings = evaluator.compute().warnings
    assert any("out of the value_range (0, 1) and have been clipped" in warning for warning in warnings)
