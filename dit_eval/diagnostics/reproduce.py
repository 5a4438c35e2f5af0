"""Table 2 from the beginning: samples at the paper's guidance scales, their numbers, the report.

FOLDER/cfg-1.00.npz, .json     a batch and how it was drawn
FOLDER/cfg-1.00.result.json    its numbers
FOLDER/report.html

What is there and was made with the same settings is not made again.
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
from dit_eval.results.result import Result, read_result, write_result
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, process_group, wait_for_all

GUIDANCE = (1.0, 1.25, 1.5)  # the paper's DiT-XL/2, and its -G

Bar = Callable[[], AbstractContextManager[Callable[..., None] | None]]


def reproduce_table2(folder: str | Path, *, model: str = "XL/2", **settings: Any) -> list[Result] | None:
    """`measure_guidance` with these settings, then FOLDER/report.html of what it gives."""
    results = measure_guidance(folder, model=model, **settings)
    if results:
        name = results[0].samples["plan"]["model"]
        write_report(Path(folder, "report.html"), results, title=f"{name} at three guidance scales")
    return results


def measure_guidance(
    folder: str | Path,
    *,
    model: str,
    num: int | None = None,
    inception: str | Path | None = None,
    device: str = "auto",
    drawing: Bar = nullcontext,
    measuring: Bar = nullcontext,
) -> list[Result] | None:
    """Sample a model at guidance 1.0, 1.25 and 1.5 and measure each batch.

    model: a registered one whose entry names its reference; num: images of each batch, None for what that
    entry says, else 50,000; inception: see `evaluate`; drawing, measuring: open a progress bar, as for
    `generate` and `evaluate`. Interrupted, the same call goes on; under torchrun every rank makes it, and
    those other than 0 get None. Raises the subclasses of DitEvalError.
    """
    folder, rank = Path(folder), Rank.from_environment()
    source = find_model(model, None, None)
    reference = source.defaults.get("reference")
    if reference is None:
        raise UsageError(
            f"no reference is registered for {source.name}, so there is nothing to measure it against. "
            "Draw batches with `dit-eval sample` and measure them with `dit-eval fid SAMPLES REF`."
        )
    images = num or int(source.defaults.get("num", 50_000))
    results = []
    with process_group(rank):
        for cfg in GUIDANCE:
            batch = folder / f"cfg-{cfg:.2f}.npz"
            with drawing() as progress:
                generate(model, cfg=cfg, num=images, out=batch, device=device, progress=progress)
            wait_for_all(rank)  # whoever draws the last image writes the batch
            out = batch.with_suffix(".result.json")
            result = _kept(out, batch, reference, inception)
            if not broadcast_from_rank0(rank, result is not None):
                with measuring() as progress:
                    result = evaluate(batch, reference, inception=inception, device=device, progress=progress)
                if result is not None:
                    write_result(out, result)
            results.append(result)
    return results if rank.index == 0 else None


def _kept(out: Path, batch: Path, reference: str, inception: str | Path | None) -> Result | None:
    """The result that is there, if it is that of this batch by these weights."""
    try:
        result = read_result(out)
    except ResultError:
        return None
    record = read_record(batch)
    weights = result.protocol["weights"]
    found = (result.samples.get("plan"), result.samples["digest"], result.reference["path"])
    asked = weights["official"] if inception is None else weights["sha256"] == assets.sha256(Path(inception))
    return result if asked and found == (record["plan"], record["digest"], reference) else None
