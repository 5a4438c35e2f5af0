"""What is kept of a batch of images once its features are gone: streamed, and merged part by part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.features.extract import Features
from dit_eval.metrics.gaussian import Moments
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums


class BatchStatistics:
    """Moments of pool and spatial features, sums for the inception score, and what single images need.

    Precision and recall need pool features, in float32. Intervals need spatial features and probabilities
    too, in float16, which a standard error does not feel.
    """

    def __init__(self, chunk: int, pool_dim: int, spatial_dim: int, classes: int, capacity: int):
        """chunk: images per chunk of the inception score; capacity: images to come, as far as is known."""
        self.pool = Moments(pool_dim)
        self.spatial = Moments(spatial_dim)
        self.score = InceptionScore(chunk)
        self._images = Features(  # pages are taken as they fill
            pool=np.empty((capacity, pool_dim), np.float32),
            spatial=np.empty((capacity, spatial_dim), np.float16),
            probabilities=np.empty((capacity, classes), np.float16),
        )

    @property
    def n(self) -> int:
        """Images seen."""
        return self.pool.n

    @property
    def images(self) -> Features:
        """Features of single images in file order: pool float32, the others float16."""
        return Features(*(part[: self.n] for part in self._images))

    def update(self, features: Features, start: int) -> None:
        """Add images start… of the file. Raises StatisticsError if a feature is not finite."""
        if not all(np.isfinite(part).all() for part in features):
            raise StatisticsError(
                f"the network gives NaN or infinity for images from {start} on; its weights are damaged "
                "or not those of this protocol."
            )
        self._keep(features)
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
            **{f"image_{name}": part for name, part in self.images._asdict().items()},
        }

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the images that follow, as `to_arrays` gave them."""
        n = int(arrays["n"][0])
        self._keep(Features(*(arrays[f"image_{name}"] for name in Features._fields)))
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

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, np.ndarray]) -> BatchStatistics:
        """The inverse of `to_arrays`."""
        dimensions = (arrays[f"image_{name}"].shape[1] for name in Features._fields)
        statistics = cls(chunk, *dimensions, capacity=int(arrays["n"][0]))
        statistics.merge(arrays)
        return statistics

    def _keep(self, features: Features) -> None:
        """Keep features of the images that follow; more than were announced double the room."""
        rows = slice(self.n, self.n + len(features.pool))
        if rows.stop > len(self._images.pool):
            grow = max(rows.stop, 2 * len(self._images.pool)) - len(self._images.pool)
            self._images = Features(*(np.pad(part, ((0, grow), (0, 0))) for part in self._images))
        for kept, new in zip(self._images, features, strict=True):
            limit = np.finfo(kept.dtype).max
            kept[rows] = np.clip(new, -limit, limit)
