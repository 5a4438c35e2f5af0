"""The inception score, by chunks in file order as ADM computes it, and over all images at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dit_eval.metrics.blocks import SupportsSlicing
from dit_eval.metrics.linalg import Array, linalg_on

# Ratio of the order-free inception score to that in file order from which a file is called sorted; for
# shuffled files the two agree to a few per cent.
SORTED_SCORE_RATIO = 1.1


@dataclass
class ScoreSums:
    """Sums over n images that determine their inception score; those of two sets can be added.

    sums: (1 + K,), float64: Σ over images and classes of p·log p, 0 where p has underflowed to 0 (ADM's score
    is NaN there), and Σ over images of p.
    """

    n: int
    sums: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray) -> ScoreSums:
        """The sums of probabilities (N, K)."""
        return cls(len(probabilities), score_sums(probabilities))

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(self.n + other.n, self.sums + other.sums)

    def score(self) -> float:
        """exp of the mean KL divergence of p(y|x) from p(y), 1 to K; higher is better."""
        marginal = self.sums[1:] / self.n
        marginal = marginal[marginal > 0]
        return float(np.exp(self.sums[0] / self.n - (marginal * np.log(marginal)).sum()))


def score_sums(probabilities: Array) -> Array:
    """`ScoreSums.sums` of probabilities (N, K): an array, or for a tensor a tensor on its device."""
    if isinstance(probabilities, np.ndarray):
        p = probabilities.astype(np.float64)
        plogp = (p * np.log(np.where(p == 0, 1.0, p))).sum()
        return np.concatenate([[plogp], p.sum(axis=0)])
    import torch

    p = probabilities.double()
    return torch.cat([torch.special.xlogy(p, p).sum()[None], p.sum(dim=0)])


class InceptionScore:
    """The inception score of images that are added in file order.

    chunk: images per chunk.
    Source: Salimans et al. 2016; chunks as in ADM's evaluator: in file order, without shuffling, and a short
    last chunk has the same weight as the others.
    """

    def __init__(self, chunk: int):
        self.chunk = chunk
        self.sums: dict[int, ScoreSums] = {}  # by the chunk's index in the file

    def update(self, probabilities: np.ndarray, start: int) -> None:
        """Add probabilities (N, K) of images start…start+N of the file."""
        for index, rows in self.chunks(start, len(probabilities)):
            self.add(index, ScoreSums.of(probabilities[rows]))

    def chunks(self, start: int, n: int, stride: int = 1) -> Iterator[tuple[int, slice]]:
        """How images start, start + stride, … of the file are divided: (index of a chunk, which of the n)."""
        first = 0
        while first < n:
            index = (start + first * stride) // self.chunk
            stop = min(n, -(-((index + 1) * self.chunk - start) // stride))
            yield index, slice(first, stop)
            first = stop

    def add(self, index: int, sums: ScoreSums) -> None:
        """Add the sums of further images of chunk `index`."""
        self.sums[index] = self.sums[index] + sums if index in self.sums else sums

    def in_file_order(self) -> float:
        """The mean of the chunks' scores, as ADM's evaluator reports it."""
        return float(np.mean([sums.score() for sums in self.sums.values()]))

    def order_free(self) -> float:
        """The score of all images as one chunk, which does not depend on their order."""
        total, *others = (self.sums[index] for index in sorted(self.sums))
        for sums in others:
            total = total + sums
        return total.score()


def score_influence(probabilities: SupportsSlicing, chunk: int, device: str = "cpu") -> np.ndarray:
    """The derivative of the score in file order with respect to the weight of image i, centred.

    probabilities: (N, K) in file order; chunk: images per chunk; device: where to compute. Returns the
    influence function φ, float64 (N,); the variance of the score is Σφ²/N².
    """
    linalg, n = linalg_on(device), len(probabilities)
    chunks = -(-n // chunk)
    influence = np.empty(n)
    for start in range(0, n, chunk):
        p = linalg.float64(linalg.array(probabilities[start : start + chunk]))
        divergence = linalg.numpy((linalg.xlogy(p, p) - linalg.xlogy(p, p.mean(axis=0))).sum(axis=1))
        score, centred = np.exp(divergence.mean()), divergence - divergence.mean()
        influence[start : start + chunk] = score * centred * n / (chunks * len(p))
    return influence
