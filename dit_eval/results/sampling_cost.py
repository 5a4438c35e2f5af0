"""What sampling an image cost, as results record it."""

from __future__ import annotations

from dit_eval.results.result import Result


def gflops_per_image(result: Result) -> float | None:
    """1e9 multiply-adds of the network for one image, all steps and both passes of guidance included.

    None for samples without a record of them.
    """
    macs, passes = result.samples.get("macs"), result.samples.get("passes_per_image")
    return macs * passes / 1e9 if macs and passes else None
