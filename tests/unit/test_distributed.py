"""The rank of a process, its share of the work and its device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_eval.errors import UsageError
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.features.network import Activations
from dit_eval.runtime.distributed import Rank, StridedShard, process_group
from tests.command import assert_one_sentence, dit_eval


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for variable in text.split():
        monkeypatch.setenv(*variable.split("="))


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ("", Rank(0, 1, 0)),
        ("RANK=1 WORLD_SIZE=2", Rank(1, 2, 0)),
        ("RANK=5 WORLD_SIZE=8 LOCAL_RANK=1", Rank(5, 8, 1)),
        ("RANK= WORLD_SIZE=", Rank(0, 1, 0)),
    ],
)
def test_rank_is_that_of_torchrun_or_of_a_single_process(monkeypatch, variables, rank) -> None:
    set_variables(monkeypatch, variables)
    assert Rank.from_environment() == rank


@pytest.mark.parametrize(
    "variables",
    [
        "RANK=3",
        "WORLD_SIZE=2",
        "RANK=2 WORLD_SIZE=2",
        "RANK=-1 WORLD_SIZE=2",
        "RANK=0 WORLD_SIZE=0",
        "RANK=zero WORLD_SIZE=2",
        "RANK=0 WORLD_SIZE=2.0",
        "RANK=0 WORLD_SIZE=2 LOCAL_RANK=x",
    ],
)
def test_variables_that_contradict_each_other_are_named(monkeypatch, variables) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(UsageError) as refusal:
        Rank.from_environment()
    assert f"the environment has {', '.join(variables.split())}; expected" in str(refusal.value)


def test_a_rank_without_a_world_is_not_blamed_on_a_healthy_file(monkeypatch, tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", arr_0=images)
    set_variables(monkeypatch, "RANK=3")
    ran = dit_eval("fid", tmp_path / "b.npz", "digits")
    assert_one_sentence(ran)
    assert "RANK=3" in ran.stderr
    assert "damaged" not in ran.stderr


@pytest.mark.parametrize("variables", ["", "MASTER_ADDR=localhost", "MASTER_ADDR=localhost MASTER_PORT=x"])
def test_ranks_that_cannot_meet_are_told_what_is_missing(monkeypatch, variables) -> None:
    set_variables(monkeypatch, variables)
    with (
        pytest.raises(UsageError, match="WORLD_SIZE=2, but MASTER_ADDR and MASTER_PORT"),
        process_group(Rank(0, 2, 0)),
    ):
        pass


@pytest.mark.parametrize("n", [0, 1, 4, 5, 23])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_shares_are_every_image_once_in_rank_order_however_few_there_are(n, count) -> None:
    shares = [range(*Rank(index, count, 0).share(n)) for index in range(count)]
    assert [image for share in shares for image in share] == list(range(n))
    workers = [StridedShard.of(Rank(index, count, 0)) for index in range(count)]
    assert [sum(worker.takes(batch) for worker in workers) for batch in range(n)] == [1] * n


def test_statistics_of_a_rank_without_images_can_be_merged_with_those_of_the_others() -> None:
    def stats() -> FeatureStats:
        return FeatureStats(5000, 4, 3, 10, capacity=0)

    empty, full, alone = stats(), stats(), stats()
    draw = np.random.default_rng(0).random
    features = Activations(*(torch.from_numpy(draw((5, size), dtype=np.float32)) for size in (4, 3, 10)))
    full.update(features, 0)
    alone.update(features, 0)
    arrays = empty.to_arrays(), full.to_arrays()
    for name in arrays[0]:  # rank 0 receives arrays of other lengths, but of the same rows as its own
        assert arrays[0][name].shape[1:] == arrays[1][name].shape[1:], name
        assert arrays[0][name].dtype == arrays[1][name].dtype, name
    merged = stats()
    for share in arrays:
        merged.append({name: _in_memory(array) for name, array in share.items()}, moments=True)
    np.testing.assert_array_equal(merged.pool.covariance, alone.pool.covariance)
    assert merged.score.order_free() == alone.score.order_free()


def _in_memory(array) -> np.ndarray:
    blocks = getattr(array, "blocks", None)
    return (
        array if blocks is None else np.concatenate([np.empty((0, *array.shape[1:]), array.dtype), *blocks])
    )


def workers(count: int) -> list[StridedShard]:
    """Those of one run of torchrun."""
    return [StridedShard.of(Rank(index, count, index)) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_worker_that_is_done_helps_with_every_missing_batch_of_the_others_once(count) -> None:
    missing = [batch for batch in range(60) if batch % 7]
    for worker in workers(count):
        own = list(filter(worker.takes, missing))
        assert sorted(own + worker.help_order(missing, 60)) == missing


def test_helpers_of_one_dead_rank_begin_in_different_places_and_away_from_its_next_batch() -> None:
    missing = list(range(3, 800, 8))  # of rank 3 of 8
    orders = [worker.help_order(missing, 800) for worker in workers(8) if worker.index != 3]
    share = len(missing) // 8
    taken = [batch for order in orders for batch in order[:share]]
    assert len(set(taken)) == len(taken)
    assert orders[0][0] == missing[-1]
    assert min(missing.index(order[0]) for order in orders) == share - 1


def test_a_part_of_a_job_array_without_any_batch_is_left_alone() -> None:
    worker = StridedShard.of(Rank(0, 2, 0), (1, 3))  # worker 0 of 6; its torchrun has workers 0 and 1
    everything = list(range(18))
    assert set(worker.help_order(everything, 18)) == {1, 7, 13}
    of_the_second = [batch for batch in everything if batch % 6 in (2, 3)]
    left = [batch for batch in everything if batch != 3]
    assert set(worker.help_order(left, 18)) == {1, 7, 13, *of_the_second} - {3}


@pytest.mark.parametrize(("count", "current"), [(1, []), (4, ["cuda:1"])])
def test_one_of_several_ranks_makes_its_device_the_current_one(monkeypatch, count, current) -> None:
    made_current: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made_current.append(str(device)))
    rank = Rank(count - 1, count, count - 1)
    rank.device("cpu")
    rank.device("auto")
    assert made_current == current


def test_device_is_chosen_by_name_and_number(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = ("auto", "cuda", "cuda:1", "cpu", torch.device("cpu"))
    assert [str(Rank(3, 4, 3).device(name)) for name in names] == ["cuda:1", "cuda:1", "cuda:1", "cpu", "cpu"]
    with pytest.raises(UsageError, match="device 'cuda:7' is not available: torch finds 2 CUDA devices"):
        Rank(0, 1, 0).device("cuda:7")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cuda:-1", "gpu", ""])
def test_device_that_is_not_there_is_refused(monkeypatch, name) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Rank(0, 1, 0).device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match=f"^device '{name}' is not (available|supported)"):
        Rank(0, 1, 0).device(name)
