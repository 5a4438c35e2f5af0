"""Reproduce table 2: sample at the paper's guidance scales, evaluate, write the report.

FOLDER/cfg-1.00.npz, .json     a batch and the record of its sampling
FOLDER/cfg-1.00.result.json    its result
FOLDER/report.html

Existing files that were made with the same settings are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from dit_eval.errors import ResultError, UsageError
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.generation.model_lookup import find_model
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.batch_record import read_record
from dit_eval.report.page import write_report
from dit_eval.results.result import Result, read_result
from dit_eval.results.table2 import NUM
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, process_group, wait_for_all

GUIDANCE_SCALES = (1.0, 1.25, 1.5)  # of DiT-XL/2 and DiT-XL/2-G in the paper

OpenProgress = Callable[[], AbstractContextManager[Callable[..., None] | None]]


def reproduce_table2(folder: str | Path, *, model: str = "XL/2", **settings: Any) -> list[Result] | None:
    """`evaluate_guidance_scales` with these settings; also writes FOLDER/report.html."""
    results = evaluate_guidance_scales(folder, model=model, **settings)
    if results:
        name = results[0].samples["plan"]["model"]
        write_report(Path(folder, "report.html"), results, title=f"{name} at three guidance scales")
    return results


def evaluate_guidance_scales(
    folder: str | Path,
    *,
    model: str,
    num: int | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    sampling_progress: OpenProgress = nullcontext,
    evaluation_progress: OpenProgress = nullcontext,
) -> list[Result] | None:
    """Sample a model at guidance scales 1.0, 1.25 and 1.5 and evaluate each batch.

    model: a registered model whose entry names its reference; num: images per batch, None for the number in
    that entry or 50,000; inception: see `evaluate`; sampling_progress, evaluation_progress: context managers
    that give the callbacks for `generate` and `evaluate`. Resumable: the same call continues after an
    interruption. Under torchrun every rank makes the call, and ranks other than 0 get None. Raises subclasses
    of DitEvalError.
    """
    folder, rank = Path(folder), Rank.from_environment()
    spec = find_model(model)
    reference = spec.defaults.get("reference")
    if reference is None:
        raise UsageError(
            f"no reference is registered for {spec.name}, so its samples cannot be evaluated. "
            "Sample with `dit-eval sample` and evaluate with `dit-eval fid SAMPLES REF`."
        )
    num = num or int(spec.defaults.get("num", NUM))
    results = []
    with process_group(rank):
        for cfg in GUIDANCE_SCALES:
            batch = folder / f"cfg-{cfg:.2f}.npz"
            with sampling_progress() as progress:
                generate(model, cfg=cfg, num=num, out=batch, device=device, progress=progress)
            wait_for_all(rank)  # the rank that samples the last image writes the batch
            out = batch.with_suffix(".result.json")
            result = _existing_result(out, batch, reference, inception)
            if not broadcast_from_rank0(rank, result is not None):
                with evaluation_progress() as progress:
                    result = evaluate(batch, reference, inception=inception, device=device, progress=progress)
                if result is not None:
                    result.save(out)
            results.append(result)
    return results if rank.index == 0 else None


def _existing_result(path: Path, batch: Path, reference: str, inception: str | Path | None) -> Result | None:
    """The result in `path` if it is of this batch, reference and weights of the feature network."""
    try:
        result = read_result(path)
    except ResultError:
        return None
    record, weights = read_record(batch), result.protocol["weights"]
    if inception is None:
        same_weights = weights["official"]
    else:
        same_weights = weights["sha256"] == assets.sha256(Path(inception))
    recorded = (result.samples.get("plan"), result.samples["digest"], result.reference["path"])
    return result if same_weights and recorded == (record["plan"], record["digest"], reference) else None
