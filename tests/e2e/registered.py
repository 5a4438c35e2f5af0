"""Run `dit-eval` with the assets of another registry: python -m tests.e2e.registered REGISTRY ARGUMENTS…"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit_eval.cli import run
from tests.registry import use_registry

ROOT = Path(__file__).resolve().parents[2]


def torchrun(ranks: int, registry: Path, *arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this many processes of one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return subprocess.run(
        [sys.executable, *launcher, "tests.e2e.registered", registry, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DIT_EVAL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        use_registry(Path(sys.argv[1]), patch)
        patch.setattr(sys, "argv", ["dit-eval", *sys.argv[2:]])
        run()
