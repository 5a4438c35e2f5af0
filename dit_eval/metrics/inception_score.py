"""The inception score, by ADM's chunks of the file and over all images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from dit_eval.metrics.sliceable import Sliceable


@dataclass
class ScoreSums:
    """What the score of a set of images needs; the sums of two sets add up.

    n: images; plogp: Σ over images and classes of p·log p; p: Σ over images of p (K,);
    zeros: probabilities that underflowed to 0, for which p·log p is taken as 0 (ADM's score is NaN there).
    """

    n: int
    plogp: float
    p: np.ndarray
    zeros: int

    @classmethod
    def of(cls, probabilities: np.ndarray) -> ScoreSums:
        """The sums of probabilities (N, K)."""
        p = probabilities.astype(np.float64)
        zero = p == 0
        plogp = float((p * np.log(np.where(zero, 1.0, p))).sum())
        return cls(len(p), plogp, p.sum(axis=0), int(zero.sum()))

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.n + other.n, self.plogp + other.plogp, self.p + other.p, self.zeros + other.zeros
        )

    def score(self) -> float:
        """exp of the mean KL divergence of p(y|x) from p(y)."""
        marginal = self.p / self.n
        marginal = marginal[marginal > 0]
        return float(np.exp(self.plogp / self.n - (marginal * np.log(marginal)).sum()))


def score_influence(probabilities: Sliceable, chunk: int) -> np.ndarray:
    """What each image does to the score in file order: its influence function, float64 (N,), of mean 0.

    probabilities: (N, K) in file order, an array or what is sliced like one. The variance of the score is
    Σφ²/N².
    """
    n = len(probabilities)
    chunks = -(-n // chunk)
    influence = np.empty(n)
    for start in range(0, n, chunk):
        score, divergence = _score_and_divergence(probabilities[start : start + chunk].astype(np.float64))
        influence[start : start + chunk] = score * divergence * n / (chunks * len(divergence))
    return influence


def _score_and_divergence(p: np.ndarray) -> tuple[float, np.ndarray]:
    """The score of a chunk, and how far each p(y|x) diverges from p(y), less the mean of that."""
    divergence = (xlogy(p, p) - xlogy(p, p.mean(axis=0))).sum(axis=1)
    return float(np.exp(divergence.mean())), divergence - divergence.mean()


class InceptionScore:
    """The score of images that come in file order.

    chunk: images per chunk. ModelSpec: Salimans et al. 2016; chunks as in ADM's evaluator: in file order, not
    shuffled, a short last chunk weighs as much as the others.
    """

    def __init__(self, chunk: int):
        self.chunk = chunk
        self.sums: dict[int, ScoreSums] = {}

    def update(self, probabilities: np.ndarray, start: int) -> None:
        """Add probabilities (N, K) of images start…start+N of the file."""
        while len(probabilities):
            index, offset = divmod(start, self.chunk)
            some = probabilities[: self.chunk - offset]
            self.add(index, ScoreSums.of(some))
            probabilities = probabilities[len(some) :]
            start += len(some)

    def add(self, index: int, sums: ScoreSums) -> None:
        """Add the sums of some more images of chunk `index`."""
        self.sums[index] = self.sums[index] + sums if index in self.sums else sums

    def in_file_order(self) -> float:
        """ADM's number: the mean over the chunks of the file."""
        return float(np.mean([sums.score() for sums in self.sums.values()]))

    def order_free(self) -> float:
        """The score of all images as one chunk, which no order can change."""
        return self._total().score()

    def zeros(self) -> int:
        """How many probabilities were exactly 0."""
        return self._total().zeros

    def _total(self) -> ScoreSums:
        first, *rest = (self.sums[index] for index in sorted(self.sums))
        for sums in rest:
            first = first + sums
        return first
