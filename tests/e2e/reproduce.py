"""`dit-eval reproduce table2` in a process of its own: python -m tests.e2e.reproduce REGISTRY ARGUMENTS…"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dit_eval.cli import run
from tests.registry import use_registry

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        use_registry(Path(sys.argv[1]), patch)
        patch.setattr(sys, "argv", ["dit-eval", "reproduce", "table2", *sys.argv[2:]])
        run()
