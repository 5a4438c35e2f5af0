"""Reproduce table 2: sample at the paper's guidance scales, evaluate, write the report.

FOLDER/cfg-1.00.npz, .json     a batch and the record of its sampling
FOLDER/cfg-1.00.result.json    its result
FOLDER/report.html

Existing files that were made with the same settings are kept, wherever the folder was then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from dit_eval.errors import ResultError, UsageError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.evaluation.references import open_reference
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
_Identity = tuple[str, "str | None", "str | None"]  # see `_evaluation_identity`


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
    batch_size: int = 32,
    precision: str | None = None,
    compile: bool = False,
    command: str | None = None,
    sampling_progress: OpenProgress = nullcontext,
    evaluation_progress: OpenProgress = nullcontext,
) -> list[Result] | None:
    """Sample a model at guidance scales 1.0, 1.25 and 1.5 and evaluate each batch.

    model: a registered model whose entry names its reference; num: images per batch, None for the number in
    that entry or 50,000; inception: see `evaluate`; batch_size, precision, compile: see `generate`; command:
    kept in the results; sampling_progress, evaluation_progress: context managers that give the callbacks for
    `generate` and `evaluate`. Resumable: the same call continues after an interruption. Under torchrun every
    rank makes the call, and ranks other than 0 get None. Raises subclasses of DitEvalError.
    """
    folder, rank = Path(folder), Rank.from_environment()
    spec = find_model(model)
    reference = spec.defaults.get("reference")
    if reference is None:
        raise UsageError(
            f"no reference is registered for {spec.name}, so its samples cannot be evaluated. "
            "Sample with `dit-eval sample` and evaluate with `dit-eval fid SAMPLES REF`."
        )
    num = int(spec.defaults.get("num", NUM)) if num is None else num
    reference_file = assets.fetch(assets.lookup("reference_stats", reference))  # never a folder of that name
    identity = cache(partial(_evaluation_identity, reference_file, inception, device))
    results = []
    with _interruption_noted(folder, results), process_group(rank):
        for cfg in GUIDANCE_SCALES:
            batch = folder / f"cfg-{cfg:.2f}.npz"
            with sampling_progress() as progress:
                generate(
                    model,
                    cfg=cfg,
                    num=num,
                    out=batch,
                    batch_size=batch_size,
                    precision=precision,
                    compile=compile,
                    device=device,
                    progress=progress,
                )
            wait_for_all(rank)  # the rank that samples the last image writes the batch
            out = batch.with_suffix(".result.json")
            result = _existing_result(out, batch, identity) if rank.index == 0 else None
            if not broadcast_from_rank0(rank, result is not None):
                with evaluation_progress() as progress:
                    result = evaluate(
                        batch, reference_file, inception=inception, device=device, progress=progress
                    )
                if result is not None:
                    section = {**result.reference, "path": reference}
                    result = replace(result, reference=section, command=command)
                    result.save(out)
            results.append(result)
    return results if rank.index == 0 else None


@contextmanager
def _interruption_noted(folder: Path, results: Sized) -> Iterator[None]:
    """Add to a KeyboardInterrupt of the block a note of how many batches there are results of."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(
            f"{len(results)} of {len(GUIDANCE_SCALES)} batches in {folder} are sampled and evaluated."
        )
        raise


def _existing_result(path: Path, batch: Path, identity: Callable[[], _Identity]) -> Result | None:
    """The result in `path` if it is of this batch and of an evaluation of this identity.

    It names the batch as it is called now: result and batch may have been moved together.
    """
    try:
        result = read_result(path)
    except ResultError:
        return None
    record, samples = read_record(batch), result.samples
    if (samples.get("plan"), samples.get("digest")) != (record.get("plan"), record.get("digest")):
        return None
    reference = result.reference
    found = result.protocol["fingerprint"], reference.get("statistics_sha256"), reference.get("digest")
    return replace(result, samples={**samples, "path": str(batch)}) if found == identity() else None


def _evaluation_identity(reference: Path, inception: str | Path | None, device: str) -> _Identity:
    """What decides the numbers besides the samples: the fingerprint of the protocol, which covers the weights
    of its network, and the digests of the reference's stored statistics and images.
    """
    target = open_reference(reference)
    extraction = load_extraction(target.protocol, inception=inception, device=device)
    images = None if target.images is None else target.images.digest()
    return extraction.protocol_record()["fingerprint"], target.statistics_digest(), images
