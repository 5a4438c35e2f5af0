"""A search in a world without networks: nothing is sampled twice, and it may stop anywhere.

Sampling writes a file that says which images it holds; evaluation makes influences from it, which candidates
with equal seeds share in part.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dit_eval.errors import ResultError, UsageError
from dit_eval.generation.pipeline import SamplingProgress
from dit_eval.metrics.intervals import interval, standard_error
from dit_eval.results.result import Result
from dit_eval.search import pipeline
from dit_eval.search.outcome import Sweep
from dit_eval.search.pipeline import SweepProgress, sweep
from tests.handmade import handmade

NUM, BATCH = 1024, 32
VARY: dict[str, Any] = {"cfg": [1.0, 1.5, 2.0], "steps": [10, 50]}
TRUE = {(1.0, 10): 9.0, (1.0, 50): 7.0, (1.5, 10): 6.3, (1.5, 50): 5.0, (2.0, 10): 8.0, (2.0, 50): 5.05}


class Killed(BaseException):
    pass


class World:
    """Counts sampled images and evaluations, and stops at the call of number `last`."""

    def __init__(self) -> None:
        self.sampled: Counter[str] = Counter()
        self.evaluated: Counter[tuple[str, int]] = Counter()
        self.calls, self.last, self.reference = 0, -1, "ref.npz"

    def call(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise Killed

    def generate(
        self, *, out: Path, num: int, seed: int, extend: bool, progress: Any, **settings: Any
    ) -> None:
        self.call()
        key = float(settings["cfg"]), int(settings["steps"])
        before = json.loads(out.read_text())["num"] if out.exists() else 0
        assert extend
        assert before <= num
        self.sampled[out.stem] += num - before
        out.write_text(json.dumps({"num": num, "seed": seed, "key": key}))
        self.call()

    def evaluate(self, batch: Path, reference: str, *, label: str, **settings: Any) -> Result:
        self.call()
        made = json.loads(batch.read_text())
        key, n, seed = tuple(made["key"]), made["num"], made["seed"]
        self.evaluated[batch.stem, n] += 1
        shared = np.random.default_rng(seed).normal(size=NUM)[:n]
        own = np.random.default_rng(zlib.crc32(repr((key, seed)).encode())).normal(size=NUM)[:n]
        images = TRUE[key] + 100 / n + 5 * shared + own  # with a bias that depends on n
        influence = (images - images.mean()).astype(np.float32)
        plain = handmade(n=n, reference=self.reference, fid=float(images.mean()), samples=batch)
        plan = {"model": "m", "cfg": key[0], "image_size": 8, "sampler": "ddpm", "steps": str(key[1])}
        plan |= {"seed": seed, "labels": "uniform", "num": n}
        return replace(
            plain,
            label=label,
            samples={**plain.samples, "plan": plan, "macs": 1e9, "passes_per_image": 2.0 * key[1]},
            intervals={"fid": vars(interval(float(images.mean()), standard_error(influence)))},
            influence={"fid": influence},
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(pipeline, "generate", made.generate)
    monkeypatch.setattr(pipeline, "evaluate", made.evaluate)
    monkeypatch.setattr(pipeline, "open_reference", lambda *_, **__: SimpleNamespace(protocol=None))
    return made


def run(out: Path, **settings: Any) -> Sweep:
    chosen = {"model": "m", "against": "ref", "vary": VARY, "num": NUM, "batch_size": BATCH, **settings}
    found = sweep(out=out, **chosen)
    assert found is not None
    return found


def state(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text("utf-8"))


def verdicts(found: Sweep) -> dict[tuple[float, int], str]:
    return {tuple(candidate.values.values()): candidate.verdict for candidate in found.candidates}


def test_worse_candidates_are_dropped_early_and_ties_are_named(world: World, tmp_path: Path) -> None:
    found = run(tmp_path / "s")
    assert verdicts(found) == {
        (1.5, 50): "winner",
        (2.0, 50): "tied",
        **dict.fromkeys([(1.5, 10), (1.0, 50), (2.0, 10), (1.0, 10)], "dropped"),
    }
    assert {candidate.n for candidate in found.candidates[:2]} == {NUM}
    assert found.candidates[-1].n == 64
    assert sum(world.sampled.values()) == found.images + NUM
    assert found.images < 0.5 * found.grid_images
    assert found.gflops == pytest.approx(sum(c.n * 2 * c.values["steps"] for c in found.candidates))
    outcome = state(tmp_path / "s")["outcome"]
    assert outcome["candidates"][0]["values"] == {"cfg": 1.5, "steps": 50}
    assert "cfg=2, steps=50" in outcome["paragraph"]
    assert "all 75 comparisons" in outcome["paragraph"]


def test_the_winner_is_measured_on_fresh_images_of_the_next_seed(world: World, tmp_path: Path) -> None:
    found = run(tmp_path / "s", seed=7)
    assert found.fresh.samples["plan"]["seed"] == 8
    assert found.fresh.samples["n"] == NUM
    assert not found.optimism.paired
    assert found.optimism.difference == found.winner.result.metrics["fid"] - found.fresh.metrics["fid"]


def test_a_winner_that_is_alone_early_is_compared_with_as_many_fresh_images(
    world: World, tmp_path: Path
) -> None:
    found = run(tmp_path / "s", vary={"cfg": [1.0, 1.5], "steps": [50]})
    assert found.winner.n == 64
    difference = found.winner.result.metrics["fid"] - found.optimism.baseline
    assert abs(difference) < 4  # the bias of 64 images is on both sides
    assert found.fresh.samples["n"] == NUM
    assert world.sampled["fresh-001-cfg-1.5-steps-50"] == NUM


def test_a_search_may_stop_before_any_call_and_continues_with_the_same_outcome(
    world: World, tmp_path: Path
) -> None:
    expected = run(tmp_path / "whole")
    calls, whole = world.calls, world.sampled.copy()
    for stop in range(1, calls + 1):
        out = tmp_path / f"stopped-{stop}"
        world.calls, world.last = 0, stop
        world.sampled.clear()
        world.evaluated.clear()
        with pytest.raises(Killed):
            run(out)
        world.last = -1
        assert run(out).to_json() == expected.to_json()
        assert state(out) == state(tmp_path / "whole")
        assert world.sampled == whole
        assert set(world.evaluated.values()) == {1}


def test_a_finished_search_is_neither_sampled_nor_evaluated_again(world: World, tmp_path: Path) -> None:
    first, calls = run(tmp_path / "s"), world.calls
    assert run(tmp_path / "s").table() == first.table()
    assert world.calls == calls


def test_a_folder_of_another_search_is_refused_and_kept(world: World, tmp_path: Path) -> None:
    run(tmp_path / "s")
    before = state(tmp_path / "s")
    with pytest.raises(
        UsageError, match=r"another search: metric \(fid before, sfid now\), seed \(0 before, 1 now"
    ):
        run(tmp_path / "s", seed=1, metric="sfid")
    assert state(tmp_path / "s") == before


def test_results_of_another_reference_are_refused(world: World, tmp_path: Path) -> None:
    world.last = 6
    with pytest.raises(Killed):
        run(tmp_path / "s")
    world.last, world.reference = -1, "other.npz"
    with pytest.raises(ResultError, match="another protocol or reference"):
        run(tmp_path / "s")


def test_coordinates_are_searched_one_after_another_from_the_chosen_values(
    world: World, tmp_path: Path
) -> None:
    found = run(tmp_path / "s", strategy="coordinate")
    assert [race.axis for race in found.races] == ["cfg", "steps"]
    assert verdicts(found) == {
        (1.5, 50): "winner",
        **dict.fromkeys([(1.0, 10), (1.5, 10), (2.0, 10)], "dropped"),
    }
    assert found.races[0].comparisons == 2 * 5 * 3  # both races, five rounds, three pairs
    assert found.races[1].comparisons == 2 * 5 * 1
    assert sum(world.sampled.values()) == found.images + NUM
    calls = world.calls
    assert run(tmp_path / "s", strategy="coordinate").to_json() == found.to_json()
    assert world.calls == calls


def test_the_budget_ends_the_race_before_a_round_that_would_exceed_it(world: World, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    enough = whole.images + NUM
    assert run(tmp_path / "s", budget=enough).to_json() == whole.to_json()
    found = run(tmp_path / "t", budget=enough - 1)
    assert found.races[0].ended_by_budget
    assert found.images + NUM < enough
    assert found.fresh.samples["n"] == NUM
    assert "The budget ended the race early." in found.paragraph()
    assert run(tmp_path / "t", budget=enough).to_json() == whole.to_json()  # it continues with a larger one


def test_a_budget_below_the_first_round_is_refused_before_anything_is_sampled(
    world: World, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="64 images of each of 6 candidates, and 1,024 fresh images"):
        run(tmp_path / "s", budget=6 * 64 + NUM - 1)
    assert not world.sampled


def test_labels_in_order_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be extended"):
        run(tmp_path / "s", labels="sorted")


def test_progress_counts_images_up_to_those_of_a_race_without_drops(world: World, tmp_path: Path) -> None:
    seen: list[SweepProgress] = []
    generate = world.generate

    def reporting(*, progress: Any, **arguments: Any) -> None:
        for done in (0.0, 5.0, 10.0):
            progress(SamplingProgress(done=done, total=10, flops=0))
        generate(progress=progress, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "generate", reporting)
        found = run(tmp_path / "s", progress=seen.append)
    assert (seen[0].stage, seen[0].alive, seen[0].candidates) == ("round 1 of 5", 6, 6)
    assert [progress.images for progress in seen[:6]] == [0, 32, 64, 64, 96, 128]
    assert seen[0].at_most == 7 * NUM
    assert seen[-1].stage == "fresh images"
    assert seen[-1].images == seen[-1].at_most == found.images + NUM
    images = [progress.images for progress in seen]
    assert images == sorted(images)
