"""A training that may be killed at any moment and goes on where it was: state, curve, progress."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

BLOCK = 50  # steps between two saves; the curve has their mean


class _Stateful(Protocol):
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


class TrainingRun:
    """The steps of a training, each with random numbers of its own.

    folder: holds state.pt and curve.csv; parts: what has a state, by the name under which it is kept.
    Step k draws from a generator that (seed, k) decides, so a run that was killed ends as one that was not.
    """

    def __init__(self, folder: Path, seed: int, **parts: _Stateful) -> None:
        self.seconds = 0.0  # of training, over all resumptions
        self._seed, self._parts, self._done = seed, parts, 0
        self._state, self._curve = folder / "state.pt", folder / "curve.csv"
        self._rows: list[dict[str, float]] = []
        self._block: list[dict[str, Tensor]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            self._restore()

    def steps(self, total: int) -> Iterator[tuple[int, torch.Generator]]:
        """Number (from 0) and generator of each step that is left of `total`."""
        began, before = time.monotonic(), self.seconds
        for step in range(self._done, total):
            # torch's generator on a CPU ignores all but the lower 32 bits
            yield step, torch.Generator().manual_seed((self._seed << 24) + step)
            if (step + 1) % BLOCK == 0 or step + 1 == total:
                self._done, self.seconds = step + 1, before + time.monotonic() - began
                self._close_block()
                self._save()

    def record(self, **values: Tensor) -> None:
        """What is to be seen of a step: a number by name."""
        self._block.append({name: value.detach() for name, value in values.items()})

    def export(self, out: Path, weights: dict[str, Tensor], **facts: int) -> None:
        """Write the weights to OUT.safetensors, with facts and what they cost, and the curve to OUT.csv."""
        out.parent.mkdir(parents=True, exist_ok=True)
        facts |= {"steps": self._done, "seconds": round(self.seconds), "seed": self._seed}
        save_file(weights, out, metadata={name: str(value) for name, value in facts.items()})
        shutil.copyfile(self._curve, out.with_suffix(".csv"))
        click.echo(f"{out}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))

    def _close_block(self) -> None:
        means = {name: torch.stack([row[name] for row in self._block]).mean() for name in self._block[0]}
        row = {"step": self._done, **{name: round(float(mean), 5) for name, mean in means.items()}}
        self._rows.append(row)
        self._block.clear()
        click.echo(f"{self.seconds:6.0f} s  " + "  ".join(f"{name} {value}" for name, value in row.items()))

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        facts = {"done": self._done, "seconds": self.seconds, "rows": self._rows}
        part = self._state.with_suffix(".part")
        torch.save({**state, "run": facts}, part)
        part.replace(self._state)
        with self._curve.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(self._rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(self._rows)

    def _restore(self) -> None:
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        facts = state["run"]
        self._done, self.seconds, self._rows = facts["done"], facts["seconds"], facts["rows"]
