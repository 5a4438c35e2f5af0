"""Evaluation of diffusion transformers: FID, sFID, inception score, precision and recall.

    evaluate        FID, sFID, inception score, precision and recall of samples against a reference.
    generate        Sample a batch of images from a class-conditional model and write it to an .npz file.
    make_reference  Write a reference: statistics, images, labels if there are any, and provenance.
    doctor          Find problems in a batch of images that would affect its metrics.
    check           Compare a result with a baseline, or with a row of reference_stats/published.toml.
    compare         Compare any number of results, given as Results, as JSON files or as folders of these.
    sweep           Search the sampling settings with the best metric, and measure the winner on fresh images.
    write_report    Write an HTML report of results; returns the path.
    count_flops     The cost of a forward pass of one image through a DiT, counted without running it.
    checkpoint      The content of a checkpoint, on the CPU; for use in a plug-in's `load()`.
    Evaluator       Metrics of images that a running program makes, such as a training loop.
    Result          The numbers of one evaluation, with their intervals and everything needed to repeat it.
    Sweep           The outcome of a search.
    Comparison      Results in groups, each compared with the first or the best one of its group.
    FlopCount       The cost of a forward pass of one image.
    DiffusionModel  A network that predicts the noise of a Gaussian diffusion, such as DiT.
    FlowModel       A network trained along an interpolation path, such as SiT, REPA, LightningDiT or JiT.
    DitEvalError    Base class of errors that are caused by the input or the options.
    ImageModel      A model that samples images by itself, such as MAR, VAR or a diffusers pipeline.

The public names are loaded on first use, so that `import dit_eval` is instant and does not import torch.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dit_eval.version import __version__

if TYPE_CHECKING:
    from dit_eval.cost.counter import FlopCount, count_flops
    from dit_eval.diagnostics.doctor import doctor
    from dit_eval.errors import DitEvalError
    from dit_eval.evaluation.evaluator import Evaluator
    from dit_eval.evaluation.pipeline import evaluate, make_reference
    from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel
    from dit_eval.generation.pipeline import generate
    from dit_eval.generation.plugins import checkpoint
    from dit_eval.report.page import write_report
    from dit_eval.results.check import check
    from dit_eval.results.compare import Comparison, compare
    from dit_eval.results.result import Result
    from dit_eval.search.outcome import Sweep
    from dit_eval.search.pipeline import sweep

_MODULES = {
    "Comparison": "dit_eval.results.compare",
    "DiffusionModel": "dit_eval.generation.models",
    "DitEvalError": "dit_eval.errors",
    "Evaluator": "dit_eval.evaluation.evaluator",
    "FlopCount": "dit_eval.cost.counter",
    "FlowModel": "dit_eval.generation.models",
    "ImageModel": "dit_eval.generation.models",
    "Result": "dit_eval.results.result",
    "Sweep": "dit_eval.search.outcome",
    "check": "dit_eval.results.check",
    "checkpoint": "dit_eval.generation.plugins",
    "compare": "dit_eval.results.compare",
    "count_flops": "dit_eval.cost.counter",
    "doctor": "dit_eval.diagnostics.doctor",
    "evaluate": "dit_eval.evaluation.pipeline",
    "generate": "dit_eval.generation.pipeline",
    "make_reference": "dit_eval.evaluation.pipeline",
    "sweep": "dit_eval.search.pipeline",
    "write_report": "dit_eval.report.page",
}

__all__ = [
    "Comparison",
    "DiffusionModel",
    "DitEvalError",
    "Evaluator",
    "FlopCount",
    "FlowModel",
    "ImageModel",
    "Result",
    "Sweep",
    "__version__",
    "check",
    "checkpoint",
    "compare",
    "count_flops",
    "doctor",
    "evaluate",
    "generate",
    "make_reference",
    "sweep",
    "write_report",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        state = random.getstate()
        try:
            module = import_module(_MODULES[name])
        finally:
            random.setstate(state)  # rich draws a number when it is imported
        return getattr(module, name)
    if name in ("errors", "sampling"):
        return import_module(f"dit_eval.{name}")
    raise AttributeError(f"module 'dit_eval' has no attribute {name!r}")
