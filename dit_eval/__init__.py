"""Evaluation of diffusion transformers: FID, sFID, inception score, precision and recall.

The public names are loaded on first use, so that `import dit_eval` is instant and does not import torch.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dit_eval.version import __version__

if TYPE_CHECKING:
    from dit_eval.cost.counter import FlopCount, count_flops
    from dit_eval.evaluation.evaluator import Evaluator
    from dit_eval.evaluation.pipeline import evaluate
    from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel
    from dit_eval.generation.pipeline import generate
    from dit_eval.generation.plugins import checkpoint
    from dit_eval.results.check import check
    from dit_eval.results.compare import Comparison, compare
    from dit_eval.results.result import Result
    from dit_eval.search.outcome import Sweep
    from dit_eval.search.pipeline import sweep

_MODULES = {
    "Comparison": "dit_eval.results.compare",
    "DiffusionModel": "dit_eval.generation.models",
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
    "evaluate": "dit_eval.evaluation.pipeline",
    "generate": "dit_eval.generation.pipeline",
    "sweep": "dit_eval.search.pipeline",
}

__all__ = [
    "Comparison",
    "DiffusionModel",
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
    "evaluate",
    "generate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        state = random.getstate()
        try:
            module = import_module(_MODULES[name])
        finally:
            random.setstate(state)  # rich draws a number when it is imported
        return getattr(module, name)
    raise AttributeError(f"module 'dit_eval' has no attribute {name!r}")
