"""dit-eval: the numbers by which diffusion transformers are judged.

Names are loaded when they are first used, so that `import dit_eval` stays instant and has no side effect.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_eval.check import check
    from dit_eval.evaluate import evaluate
    from dit_eval.flops import FlopCount, count_flops
    from dit_eval.generate import generate
    from dit_eval.results import Result

__version__ = "0.1.0"

_HOME = {
    "FlopCount": "dit_eval.flops",
    "Result": "dit_eval.results",
    "check": "dit_eval.check",
    "count_flops": "dit_eval.flops",
    "evaluate": "dit_eval.evaluate",
    "generate": "dit_eval.generate",
}

__all__ = ["FlopCount", "Result", "__version__", "check", "count_flops", "evaluate", "generate"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dit_eval' has no attribute {name!r}")


class _Package(ModuleType):
    """`evaluate` and `generate` name a module and its function: importing the one leaves the other here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
