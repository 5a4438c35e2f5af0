"""Start-up of the command line: help, a mistyped path, and `compare` on 20 results of 4 models.

    python benchmarks/startup.py

The results are of the bundled DiT and SiT, each at 2 and at 4 steps, at five guidance scales. Medians of
several runs, seconds of wall time from the start of the interpreter to its end; the first row is an
interpreter that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

import click
from common import keep

import dit_eval
from dit_eval.cli import main as program

HELP_S, MISTYPED_S, COMPARE_S = 0.3, 0.5, 3.0  # aims
MODELS = [(model, steps) for model in ("digits", "digits-sit") for steps in (2, 4)]
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)


@click.command()
@click.option("--runs", default=9, show_default=True)
@click.option("--num-samples", default=500, show_default=True, help="Images of each result.")
def main(runs: int, num_samples: int) -> None:
    """Print and write the times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_results(folder, num_samples)
        bare = [sys.executable, "-c", ""]
        dit_eval_command = [sys.executable, "-m", "dit_eval"]
        commands = [
            ("python", bare, None, 0),
            ("dit-eval --help", [*dit_eval_command, "--help"], HELP_S, 0),
            *(
                (f"dit-eval {command} --help", [*dit_eval_command, command, "--help"], HELP_S, 0)
                for command in sorted(program.commands)
            ),
            ("a mistyped path", [*dit_eval_command, "fid", "absent.npz", "digits"], MISTYPED_S, 2),
            ("compare, 20 results of 4 models", [*dit_eval_command, "compare", str(folder)], COMPARE_S, 0),
        ]
        times: dict[str, list[float]] = {name: [] for name, *_ in commands}
        for _ in range(runs):  # interleaved, so that the machine's other work meets all alike
            for name, command, _, code in commands:
                times[name].append(seconds(command, code))
    rows = []
    for name, _, aim, _ in commands:
        taken = median(times[name])
        met = "" if aim is None else "yes" if taken <= aim else "no"
        click.echo(f"{name:32} {taken:6.3f}  {'' if aim is None else f'aim {aim}: {met}'}")
        rows.append({"command": name, "seconds": round(taken, 3), "aim": aim or "", "met": met})
    keep("startup", rows)


def make_results(folder: Path, num: int) -> None:
    """Sample and evaluate each model at each guidance scale; the folder then holds the results alone."""
    with tempfile.TemporaryDirectory() as batches:
        for (model, steps), cfg in product(MODELS, SCALES):
            name = f"{model}-{steps}-cfg-{cfg}"
            batch = Path(batches, f"{name}.npz")
            dit_eval.generate(model=model, cfg=cfg, steps=steps, num=num, out=batch, device="cpu")
            result = dit_eval.evaluate(batch, "digits", device="cpu", label=f"{model}, {steps} steps")
            assert result is not None
            result.save(folder / f"{name}.json")


def seconds(command: list[str], code: int) -> float:
    """Wall time of a command that exits with this code."""
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - start
    assert run.returncode == code, run.stderr
    return taken


if __name__ == "__main__":
    main()
