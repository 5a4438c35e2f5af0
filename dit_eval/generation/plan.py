"""Which images a batch is made of: every index, its label, and the settings that they share.

Work is cut into batches of consecutive indices. Rounding may depend on the shape of a batch, so every one is
drawn at full size: the last repeats its last index, and the repetitions are thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dit_eval.errors import UsageError
from dit_eval.io.assets import sha256
from dit_eval.sampling.noise import label_words


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides the bytes of a batch; runs with equal plans may work in one folder."""

    model: str
    weights: str  # SHA-256 of the checkpoint
    decoder: str  # "pixels", or the VAE and the SHA-256 of its weights
    rounding: str  # how its floats become uint8
    image_size: int
    num: int
    seed: int
    labels: str
    sampler: str
    options: Mapping[str, Any]  # what the sampler and its schedule are told
    steps: str | None  # None where the solver chooses its own
    cfg: float
    cfg_channels: str
    cfg_interval: tuple[float, float] | None  # noise levels σ
    batch_size: int
    precision: str
    compile: bool
    device: str  # its kind: another kind rounds otherwise

    @property
    def batches(self) -> int:
        """Into how many pieces the work is cut."""
        return -(-self.num // self.batch_size)

    def count(self, batch: int) -> int:
        """How many images of a batch are wanted: `batch_size`, but for the last."""
        return min(self.batch_size, self.num - batch * self.batch_size)

    def indices(self, batch: int) -> NDArray[np.int64]:
        """The indices that are drawn together, (batch_size,); those past the end repeat the last."""
        start = batch * self.batch_size
        return np.minimum(np.arange(start, start + self.batch_size), self.num - 1)

    def settings(self) -> dict[str, Any]:
        """The plan as it comes back from JSON, the sampler's options among the others.

        A file of labels is named by its content, which decides the bytes; its path does not.
        """
        settings = asdict(self)
        if _is_file(self.labels):
            settings["labels"] = f"file {sha256(Path(self.labels))}"
        return json.loads(json.dumps(settings.pop("options") | settings))


def choose_labels(spec: str, *, num: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    """The class of every image, (num,) int64; that of image i depends on (seed, i) and `spec` alone.

    spec: "uniform" draws each by itself, as DiT does; "balanced" shuffles all classes, again and again, so
    that none is ever more than one image ahead; a number is that class for all; anything else is a text file
    of `num` numbers. Raises UsageError for classes that the model does not have.
    """
    if spec in ("uniform", "balanced"):
        words = _words(seed, -(-num // num_classes) * num_classes)
        if spec == "uniform":
            return words[:num] * num_classes >> 32
        rounds = words.reshape(-1, num_classes).argsort(axis=1, kind="stable")
        return rounds.reshape(-1)[:num]
    labels = _read_labels(Path(spec), num) if _is_file(spec) else np.full(num, int(spec))
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UsageError(
            f"class {wrong[0]} does not exist: the model has {num_classes}, 0 to {num_classes - 1}."
        )
    return labels


def _is_file(spec: str) -> bool:
    return spec not in ("uniform", "balanced") and not spec.isdecimal()


def _words(seed: int, count: int) -> NDArray[np.int64]:
    return label_words(seed, torch.arange(count)).numpy()


def _read_labels(path: Path, num: int) -> NDArray[np.int64]:
    try:
        labels = np.array(path.read_text("utf-8").split(), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"labels {str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}). "
            "Choose uniform, balanced, the number of a class, or a text file with one number per image."
        ) from None
    if len(labels) != num:
        raise UsageError(f"{path} holds {len(labels)} labels for {num} images; it should hold one for each.")
    return labels
