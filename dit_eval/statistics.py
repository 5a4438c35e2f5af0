"""What is kept of a batch of images once its features are gone; streamed, merged across processes, cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import torch

from dit_eval import npz
from dit_eval.assets import cache_dir
from dit_eval.batches import Images
from dit_eval.distributed import Rank, collect
from dit_eval.errors import BatchError, StatisticsError
from dit_eval.features.extract import Extractor, Features
from dit_eval.metrics.gaussian import Moments
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums

Progress = Callable[[int, int], None]  # images done, images in all

_CACHE_VERSION = 1


class BatchStatistics:
    """Moments of pool and spatial features, sums for the inception score, and the pool features themselves.

    Only precision and recall need features of single images; spatial features are never kept.
    """

    def __init__(self, chunk: int, pool_dim: int, spatial_dim: int):
        self.pool = Moments(pool_dim)
        self.spatial = Moments(spatial_dim)
        self.score = InceptionScore(chunk)
        self._features: list[np.ndarray] = []

    @property
    def n(self) -> int:
        """Images seen."""
        return self.pool.n

    def features(self) -> np.ndarray:
        """Pool features in file order: (N, D), float32."""
        if len(self._features) > 1:
            self._features = [np.concatenate(self._features)]
        return self._features[0] if self._features else np.empty((0, self._pool_dim), np.float32)

    def update(self, features: Features, start: int) -> None:
        """Add images start… of the file. Raises StatisticsError if a feature is not finite."""
        if not all(np.isfinite(part).all() for part in features):
            raise StatisticsError(
                f"the network gives NaN or infinity for images from {start} on; its weights are damaged "
                "or not those of this protocol."
            )
        self.score.update(features.probabilities, start)
        self.pool.update(features.pool)
        self.spatial.update(features.spatial)
        self._features.append(features.pool)

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
            "features": self.features(),
        }

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the images that follow, as `to_arrays` gave them."""
        n = int(arrays["n"][0])
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
        self._features.append(arrays["features"])

    @property
    def _pool_dim(self) -> int:
        return len(self.pool.sums()[0])

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, np.ndarray]) -> BatchStatistics:
        """The inverse of `to_arrays`."""
        statistics = cls(chunk, len(arrays["pool_sum"]), len(arrays["spatial_sum"]))
        statistics.merge(arrays)
        return statistics


def measure(
    images: Images,
    extractor: Extractor,
    *,
    batch_size: int,
    rank: Rank,
    cache_key: str | None = None,
    progress: Progress | None = None,
) -> tuple[BatchStatistics | None, bool]:
    """Statistics of a batch, and whether they came from the cache; None on ranks other than 0.

    cache_key: what identifies images, network and device; None neither reads nor writes the cache.
    """
    chunk = extractor.protocol.inception_score_chunk
    if cache_key is not None and (arrays := _from_cache(cache_key)) is not None:
        return (BatchStatistics.from_arrays(chunk, arrays) if rank.index == 0 else None), True
    start, stop = rank.share(len(images))
    statistics = BatchStatistics(chunk, *extractor.dimensions)
    at = start
    for features in extractor.stream(images, batch_size, start, stop):
        statistics.update(features, at)
        at += len(features.pool)
        if progress:
            progress(at - start, stop - start)
    if rank.count > 1:
        first, *others = collect(rank, statistics.to_arrays()) or [None]
        if first is None:
            return None, False
        for arrays in others:
            statistics.merge(arrays)
    if cache_key is not None:
        _to_cache(cache_key, statistics.to_arrays())
    return statistics, False


def cache_key(images_digest: str, fingerprint: str, device: torch.device) -> str:
    """What makes stored statistics the ones that would be computed now, up to the batch size."""
    parts = (_CACHE_VERSION, images_digest, fingerprint, device.type, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _from_cache(key: str) -> dict[str, np.ndarray] | None:
    path = cache_dir() / "features" / f"{key}.npz"
    try:
        return {name: member.read() for name, member in npz.members(path).items()}
    except BatchError:  # absent or damaged: computed again and written anew
        return None


def _to_cache(key: str, arrays: dict[str, np.ndarray]) -> None:
    folder = cache_dir() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    npz.write_npz(folder / f"{key}.npz", arrays)
