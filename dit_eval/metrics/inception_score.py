"""The inception score, by chunks in file order as ADM computes it, and over all images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from dit_eval.metrics.blocks import SupportsSlicing

# Ratio of the order-free inception score to that in file order from which a file is called sorted; for
# shuffled files the two agree to a few per cent.
SORTED_SCORE_RATIO = 1.1


@dataclass
class ScoreSums:
    """Sums over a set of images that determine its inception score; those of two sets can be added.

    n: number of images; plogp: Σ over images and classes of p·log p, 0 where p has underflowed to 0 (ADM's
    score is NaN there); p: Σ over images of p (K,).
    """

    n: int
    plogp: float
    p: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray) -> ScoreSums:
        """The sums of probabilities (N, K)."""
        p = probabilities.astype(np.float64)
        plogp = float((p * np.log(np.where(p == 0, 1.0, p))).sum())
        return cls(len(p), plogp, p.sum(axis=0))

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(self.n + other.n, self.plogp + other.plogp, self.p + other.p)

    def score(self) -> float:
        """exp of the mean KL divergence of p(y|x) from p(y), 1 to K; higher is better."""
        marginal = self.p / self.n
        marginal = marginal[marginal > 0]
        return float(np.exp(self.plogp / self.n - (marginal * np.log(marginal)).sum()))


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
        while len(probabilities):
            index, offset = divmod(start, self.chunk)
            rows = probabilities[: self.chunk - offset]
            self.add(index, ScoreSums.of(rows))
            probabilities = probabilities[len(rows) :]
            start += len(rows)

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


def score_influence(probabilities: SupportsSlicing, chunk: int) -> np.ndarray:
    """The derivative of the score in file order with respect to the weight of image i, centred.

    probabilities: (N, K) in file order; chunk: images per chunk. Returns the influence function φ, float64
    (N,); the variance of the score is Σφ²/N².
    """
    n = len(probabilities)
    chunks = -(-n // chunk)
    influence = np.empty(n)
    for start in range(0, n, chunk):
        p = probabilities[start : start + chunk].astype(np.float64)
        divergence = (xlogy(p, p) - xlogy(p, p.mean(axis=0))).sum(axis=1)
        score, centred = np.exp(divergence.mean()), divergence - divergence.mean()
        influence[start : start + chunk] = score * centred * n / (chunks * len(p))
    return influence
