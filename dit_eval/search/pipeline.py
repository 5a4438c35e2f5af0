"""`sweep`: race the candidates on shared noise, then measure the winner on fresh images.

    FOLDER/sweep.json                              the search, its rounds so far and, at the end, its outcome
    FOLDER/samples/003-cfg-1.5-steps-50.npz        the images of a candidate, extended in every round
    FOLDER/results/003-cfg-1.5-steps-50-n256.json  its result at that number of images
    FOLDER/samples/fresh-003-….npz                 images of the winner from another seed

Every decision follows from the results, and what exists is neither sampled nor evaluated again: the same call
continues after an interruption, on any number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import ResultError, UsageError, require_choices, require_positive
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.evaluation.prepared_reference import choose_protocols
from dit_eval.evaluation.references import open_reference
from dit_eval.generation.pipeline import SamplingProgress, generate
from dit_eval.generation.plan import require_extendable
from dit_eval.io.files import make_folder, read_json, write_json
from dit_eval.results.metric_comparison import MetricComparison, baseline_of, compare_metric
from dit_eval.results.metric_names import ADM, HEADLINE
from dit_eval.results.result import Result, read_result
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, process_group, wait_for_all
from dit_eval.search.budget import Budget
from dit_eval.search.outcome import Race, Sweep, collect_candidates, state_as_json
from dit_eval.search.race import Round, compare_with_best, count_comparisons, round_sizes
from dit_eval.search.settings import Values, describe, file_name, generation_arguments, grid, require_axes

Strategy = Literal["grid", "coordinate"]


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """The progress of a search.

    stage: such as "round 2 of 5"; alive: candidates that are not dropped, of `candidates`; images: sampled so
    far by all processes; at_most: images of the whole search if no more candidates are dropped.
    """

    stage: str
    alive: int
    candidates: int
    images: float
    at_most: int


def sweep(
    model: Any = None,
    *,
    against: str | Path,
    vary: Mapping[str, Sequence[Any]],
    metric: str = "fid",
    num: int = 50_000,
    out: str | Path = "sweep",
    strategy: Strategy = "grid",
    first: int | None = None,
    budget: int | str | None = None,
    seed: int = 0,
    labels: str | int = "uniform",
    batch_size: int = 32,
    device: str = "auto",
    protocol: str | None = None,
    inception: str | Path | None = None,
    offline: bool = False,
    progress: Callable[[SweepProgress], None] | None = None,
    **settings: Any,
) -> Sweep | None:
    """Search the sampling settings with the best metric, and measure the winner on fresh images.

    All candidates sample the same images, from the same noise and labels. After each round, those that are
    worse than the best are dropped (see `search.race`), and the others go on to twice the images, up to
    `num`. The winner is then measured on `num` images of the random seed `seed` + 1.

    model: "XL/2" by default; model, labels, batch_size, device and settings: see `generate`; against: the
    reference; protocol, inception, offline: see `evaluate`; vary: the values to try by setting, one of
    `VARIABLE` in `search.settings`, or "model.KEY" for an argument of a plug-in; metric: one of `HEADLINE` in
    `results.metric_names`; out: a folder; strategy: "grid" for all combinations, "coordinate" for one setting
    after another, in the order of `vary`, with the others at the value that was chosen or else at the first
    one; first: images of the first round, None for a sixteenth of `num`; budget: see `Budget.parse`; the race
    ends before a round that would exceed it.
    Resumable: the same call continues after an interruption, also with another budget. Under torchrun every
    rank makes the call, and ranks other than 0 get None. Raises subclasses of DitEvalError.

    dit_eval.sweep("XL/2", against="imagenet-256", vary={"cfg": [1.25, 1.5, 1.75], "steps": [50, 250]})
    """
    fixed = {"model": model, **settings}
    require_axes(vary, fixed)
    if "model" not in vary and model is None:
        fixed["model"] = "XL/2"
    require_choices(metric=(metric, HEADLINE), strategy=(strategy, ("grid", "coordinate")))
    require_positive(num=num, batch_size=batch_size)
    require_extendable(str(labels))
    # Raises now what `evaluate` would after the first images
    choose_protocols(
        [protocol] if protocol else [], [(str(against), open_reference(against, offline=offline))]
    )
    batch_size = min(batch_size, num)
    generation = {key: value for key, value in fixed.items() if value is not None}
    generation |= {"labels": labels, "batch_size": batch_size}
    search = {
        "against": against,
        "vary": vary,
        "metric": metric,
        "num": num,
        "strategy": strategy,
        "rounds": round_sizes(num, first, batch_size),
        "seed": seed,
        "protocol": protocol,
        "inception": inception,
        **generation,
    }
    rank = Rank.from_environment()
    with process_group(rank):
        runner = _Runner(
            folder=Path(out),
            rank=rank,
            search=json.loads(json.dumps(search, default=_as_text)),
            generation={**generation, "device": device},
            evaluation={"protocol": protocol, "inception": inception, "device": device, "offline": offline},
            reference=against,
            budget=Budget.parse(budget),
            progress=progress,
        )
        runner.open()
        run = runner.run_grid if strategy == "grid" else runner.run_coordinates
        return runner.finish(run(vary))


@dataclass(kw_only=True)
class _Runner:
    """Runs the races on all ranks. Only rank 0 has results, and it decides for all.

    search: what the folder is for, as JSON; generation, evaluation: arguments of `generate` and `evaluate`;
    candidates: values of the varied settings, by number; results: by number and number of images; drawn:
    images of each candidate so far.
    """

    folder: Path
    rank: Rank
    search: dict[str, Any]
    generation: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    reference: str | Path
    budget: Budget
    progress: Callable[[SweepProgress], None] | None
    candidates: list[Values] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    results: dict[int, dict[int, Result]] = field(default_factory=dict)
    drawn: dict[int, int] = field(default_factory=dict)
    evaluated_with: tuple[Any, ...] | None = None  # see `_evaluation_identity`

    def open(self) -> None:
        """Create the folder, or reuse that of the same search. Raises UsageError for that of another one."""
        if self.rank.index == 0:
            for name in ("samples", "results"):
                make_folder(self.folder / name, UsageError)
            state = self.folder / "sweep.json"
            if state.exists():
                self._require_same_search(read_json(state).get("search", {}))
            else:
                self._save()
        wait_for_all(self.rank)

    def run_grid(self, vary: Mapping[str, Sequence[Any]]) -> int:
        """Race all combinations; returns the number of the best candidate."""
        return self.run_race(list(grid(vary)))

    def run_coordinates(self, vary: Mapping[str, Sequence[Any]]) -> int:
        """Race the values of one setting after another, with the others at the values chosen so far.

        Returns the number of the best candidate of the last race that the budget allowed.
        """
        chosen = {name: values[0] for name, values in vary.items()}
        axes = [name for name, values in vary.items() if len(values) > 1]
        best = None
        for name in axes:
            entrants = [{**chosen, name: value} for value in vary[name]]
            best = self.run_race(entrants, axis=name, races=len(axes), best=best)
            if self.races[-1].ended_by_budget:
                break
            chosen = dict(self.candidates[best])
        assert best is not None
        return best

    def run_race(
        self, entrants: Sequence[Values], *, axis: str | None = None, races: int = 1, best: int | None = None
    ) -> int:
        """Sample and evaluate candidates in rounds, and drop those that are worse than the best.

        axis: the setting that varies, None for all; races: how many there are in the search, whose
        comparisons hold together; best: the number of the best candidate so far, None in the first race.
        Returns that number after this race. Raises UsageError if the budget does not allow the first round of
        the first race.
        """
        alive = [self._number(values) for values in entrants]
        sizes = self.search["rounds"]
        simultaneous = races * count_comparisons(len(alive), len(sizes))
        race = Race(axis=axis, comparisons=simultaneous, entrants=tuple(alive))
        self.races.append(race)
        for index, n in enumerate(sizes):
            if not broadcast_from_rank0(self.rank, self._affordable(alive, n)):
                self.races[-1] = replace(race, ended_by_budget=True)
                break
            stage = f"round {index + 1} of {len(sizes)}" + (f", {axis}" if axis else "")
            gone = sum(images for number, images in self.drawn.items() if number not in alive)
            at_most = gone + (len(alive) + 1) * self.search["num"]
            for number in alive:
                new = max(0, n - self.drawn.get(number, 0))
                result = self._measure(number, n, report=self._report(stage, len(alive), new, at_most))
                if result is not None:
                    self.results.setdefault(number, {})[n] = result
                self.drawn[number] = max(n, self.drawn.get(number, 0))
            found = None
            if self.rank.index == 0:
                results = {number: self.results[number][n] for number in alive}
                found = compare_with_best(results, self.search["metric"], simultaneous)
                race = self.races[-1] = replace(race, rounds=(*race.rounds, found))
                self._save()
            best, *others = alive = self._survivors(alive, found)
            if not others:
                break
        if best is None:
            raise UsageError(
                f"the budget does not allow the first round: {sizes[0]:,} images of each of {len(alive)} "
                f"candidates, and {self.search['num']:,} fresh images of the winner. Raise --budget, or "
                "lower --first or --num-samples."
            )
        return best

    def finish(self, winner: int) -> Sweep | None:
        """Measure the winner on fresh images, save the outcome and return it; None on ranks other than 0."""
        last, num = self.drawn[winner], self.search["num"]
        report = self._report("fresh images", 1, num, sum(self.drawn.values()) + num)
        fresh = {
            n: self._measure(winner, n, fresh=True, report=report)
            for n in dict.fromkeys((last, num))  # FID depends on n, so the search is compared at its own
        }
        reported = fresh[num]
        if reported is None:
            return None
        name = self.search["metric"]
        results = [self.results[number] for number in range(len(self.candidates))]
        found = Sweep(
            search=self.search,
            races=self.races,
            candidates=collect_candidates(self.races, self.candidates, results, winner, name),
            fresh=reported,
            optimism=_compare_fresh(name, results[winner][last], fresh[last] or reported),
        )
        write_json(self.folder / "sweep.json", found.to_json())
        return found

    def _measure(
        self, number: int, n: int, *, fresh: bool = False, report: Callable[[SamplingProgress], None] | None
    ) -> Result | None:
        """The result of a candidate on its first `n` images, which is read if it exists; None off rank 0.

        fresh: on images of the next random seed.
        """
        values = self.candidates[number]
        name = ("fresh-" if fresh else "") + file_name(number, values)
        file = self.folder / "results" / f"{name}-n{n}.json"
        if broadcast_from_rank0(self.rank, self.rank.index == 0 and file.exists()):
            result = read_result(file) if self.rank.index == 0 else None
        else:
            batch = self.folder / "samples" / f"{name}.npz"
            seed = self.search["seed"] + fresh
            try:
                arguments = generation_arguments(self.generation, values)
                generate(**arguments, num=n, seed=seed, out=batch, extend=True, progress=report)
            except UsageError as error:
                raise UsageError(f"{describe(values)}: {error}") from None
            wait_for_all(self.rank)  # the rank that samples the last image writes the batch
            label = describe(values) + (", fresh images" if fresh else "")
            metric = self.search["metric"]
            metrics = dict.fromkeys((*ADM, metric)) if fresh else [metric]
            result = evaluate(batch, self.reference, label=label, metrics=metrics, **self.evaluation)
            if result is not None:
                result.save(file)
        if result is not None:
            self._require_same_evaluation(result, file)
        return result

    def _require_same_evaluation(self, result: Result, file: Path) -> None:
        """Raise ResultError if protocol or reference are not those of the first result."""
        identity = _evaluation_identity(result)
        self.evaluated_with = self.evaluated_with or identity
        if identity != self.evaluated_with:
            raise ResultError(
                f"{file} is of another protocol or reference than the first result of this search. Choose "
                "another --out, or delete the files in results/ to evaluate all images again."
            )

    def _number(self, values: Values) -> int:
        """The number of a candidate, which is new if it has not raced before."""
        if values not in self.candidates:
            self.candidates.append(values)
        return self.candidates.index(values)

    def _affordable(self, alive: Sequence[int], n: int) -> bool:
        """True if the budget allows `n` images of these candidates and the fresh ones of one of them."""
        images = self.drawn | {number: max(n, self.drawn.get(number, 0)) for number in alive}
        images[alive[0]] += self.search["num"]
        return self.budget.allows(images, {i: by_size[max(by_size)] for i, by_size in self.results.items()})

    def _survivors(self, alive: Sequence[int], found: Round | None) -> list[int]:
        """The survivors of a round of rank 0, on every rank, the best first."""
        survivors = found.survivors if found else ()
        kept = [i for i in alive if broadcast_from_rank0(self.rank, i in survivors)]
        best = next(i for i in alive if broadcast_from_rank0(self.rank, i in survivors[:1]))
        return [best, *(i for i in kept if i != best)]

    def _report(
        self, stage: str, alive: int, new: int, at_most: int
    ) -> Callable[[SamplingProgress], None] | None:
        """The callback of `generate` while it samples `new` images; None if nobody asks."""
        progress, before, candidates = self.progress, sum(self.drawn.values()), len(self.candidates)
        if progress is None:
            return None

        def report(sampling: SamplingProgress) -> None:
            images = before + new * (sampling.done / sampling.total if sampling.total else 1.0)
            progress(
                SweepProgress(stage=stage, alive=alive, candidates=candidates, images=images, at_most=at_most)
            )

        return report

    def _save(self) -> None:
        write_json(self.folder / "sweep.json", state_as_json(self.search, self.races))

    def _require_same_search(self, recorded: Mapping[str, Any]) -> None:
        differences = [
            f"{key} ({recorded.get(key)} before, {self.search.get(key)} now)"
            for key in sorted({*recorded, *self.search})
            if recorded.get(key) != self.search.get(key)
        ]
        if differences:
            raise UsageError(
                f"{self.folder} holds another search: {', '.join(differences)}. Use the same settings to "
                "resume, or choose another --out."
            )


def _compare_fresh(name: str, searched: Result, fresh: Result) -> MetricComparison:
    return compare_metric(name, searched, baseline_of(searched, fresh), simultaneous=1)


def _evaluation_identity(result: Result) -> tuple[Any, ...]:
    """What decides the numbers of a result besides its samples."""
    reference = result.reference
    return result.protocol["fingerprint"], reference.get("statistics_sha256"), reference.get("digest")


def _as_text(value: object) -> str:
    """A parameter of the search that is no JSON value: a path, or a model by its type."""
    return str(value) if isinstance(value, Path) else type(value).__name__
