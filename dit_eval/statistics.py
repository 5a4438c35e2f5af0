"""What is kept of a batch of images once its features are gone: streamed, and merged part by part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.features.extract import Features
from dit_eval.metrics.gaussian import Moments
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums


class BatchStatistics:
    """Moments of pool and spatial features, sums for the inception score, and the pool features themselves.

    Only precision and recall need features of single images; spatial features are never kept.
    """

    def __init__(self, chunk: int, pool_dim: int, spatial_dim: int, capacity: int):
        """chunk: images per chunk of the inception score; capacity: images to come, as far as is known."""
        self.pool = Moments(pool_dim)
        self.spatial = Moments(spatial_dim)
        self.score = InceptionScore(chunk)
        self._features = np.empty((capacity, pool_dim), np.float32)  # pages are taken as they fill

    @property
    def n(self) -> int:
        """Images seen."""
        return self.pool.n

    @property
    def features(self) -> np.ndarray:
        """Pool features in file order: (N, D), float32."""
        return self._features[: self.n]

    def update(self, features: Features, start: int) -> None:
        """Add images start… of the file. Raises StatisticsError if a feature is not finite."""
        if not all(np.isfinite(part).all() for part in features):
            raise StatisticsError(
                f"the network gives NaN or infinity for images from {start} on; its weights are damaged "
                "or not those of this protocol."
            )
        self._keep(features.pool)
        self.score.update(features.probabilities, start)
        self.pool.update(features.pool)
        self.spatial.update(features.spatial)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays, for a file or another process."""
        chunks = sorted(self.score.sums)
        sums = [self.score.sums[index] for index in chunks]
        pool, spatial = self.pool.sums(), self.spatial.sums()
        return {
            "n": np.array([self.n]),
            "pool_sum": pool[0],
            "pool_outer": pool[1],
            "spatial_sum": spatial[0],
            "spatial_outer": spatial[1],
            "score_chunk": np.array(chunks, np.int64),
            "score_counts": np.array([(s.n, s.zeros) for s in sums], np.int64).reshape(-1, 2),
            "score_plogp": np.array([s.plogp for s in sums]),
            "score_p": np.array([s.p for s in sums]),
            "features": self.features,
        }

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the images that follow, as `to_arrays` gave them."""
        n = int(arrays["n"][0])
        self._keep(arrays["features"])
        self.pool.merge(Moments.from_sums(n, arrays["pool_sum"], arrays["pool_outer"]))
        self.spatial.merge(Moments.from_sums(n, arrays["spatial_sum"], arrays["spatial_outer"]))
        for index, (count, zeros), plogp, p in zip(
            arrays["score_chunk"],
            arrays["score_counts"],
            arrays["score_plogp"],
            arrays["score_p"],
            strict=True,
        ):
            self.score.add(int(index), ScoreSums(int(count), float(plogp), p, int(zeros)))

    def _keep(self, features: np.ndarray) -> None:
        """Keep features of the images that follow; more than were announced double the room."""
        needed = self.n + len(features)
        if needed > len(self._features):
            larger = np.empty((max(needed, 2 * len(self._features)), features.shape[1]), np.float32)
            larger[: self.n] = self.features
            self._features = larger
        self._features[self.n : needed] = features

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, np.ndarray]) -> BatchStatistics:
        """The inverse of `to_arrays`."""
        dimensions = len(arrays["pool_sum"]), len(arrays["spatial_sum"])
        statistics = cls(chunk, *dimensions, capacity=int(arrays["n"][0]))
        statistics.merge(arrays)
        return statistics
