"""What is kept of a batch of images once its features are gone: streamed, and merged part by part."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.features.extractor import Features
from dit_eval.io.npz import Member, Rows
from dit_eval.metrics.gaussian import Moments
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums

Stored = np.ndarray | Member

_BLOCK = 2000  # rows of a stored array that are read at once


class FeatureStats:
    """Moments of pool and spatial features, sums for the inception score, and what single images need.

    Precision and recall need pool features, which stay in memory; intervals need spatial features and
    probabilities too, which wait in a temporary file.
    """

    def __init__(self, chunk: int, pool_dim: int, spatial_dim: int, classes: int, capacity: int):
        """chunk: images per chunk of the inception score; capacity: images to come, as far as is known."""
        self.pool = Moments(pool_dim)
        self.spatial = Moments(spatial_dim)
        self.score = InceptionScore(chunk)
        self.spatial_features = DiskRows(spatial_dim)
        self.probabilities = DiskRows(classes)
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
        self.spatial_features.append(features.spatial)
        self.probabilities.append(features.probabilities)
        self.score.update(features.probabilities, start)
        self.pool.update(features.pool)
        self.spatial.update(features.spatial)

    def to_arrays(self) -> dict[str, np.ndarray | Rows]:
        """Everything as named arrays, for a file or another process; what waits on the disk as Rows."""
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
            "spatial_features": self.spatial_features.rows(),
            "probabilities": self.probabilities.rows(),
        }

    def merge(self, arrays: Mapping[str, Stored]) -> None:
        """Add the images that follow, as `to_arrays` gave them; or as members of a file of it."""
        n = int(_whole(arrays["n"])[0])
        self._keep(_whole(arrays["features"]))
        for name in ("spatial_features", "probabilities"):
            for block in _blocks(arrays[name]):
                getattr(self, name).append(block)
        self.pool.merge(Moments.from_sums(n, _whole(arrays["pool_sum"]), _whole(arrays["pool_outer"])))
        spatial = _whole(arrays["spatial_sum"]), _whole(arrays["spatial_outer"])
        self.spatial.merge(Moments.from_sums(n, *spatial))
        scores = (_whole(arrays[f"score_{part}"]) for part in ("chunk", "counts", "plogp", "p"))
        for index, (count, zeros), plogp, p in zip(*scores, strict=True):
            self.score.add(int(index), ScoreSums(int(count), float(plogp), p, int(zeros)))

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, Stored]) -> FeatureStats:
        """The inverse of `to_arrays`. Raises BatchError where members of a file are damaged."""
        n, width = arrays["features"].shape
        others = (arrays[name].shape[1] for name in ("spatial_features", "probabilities"))
        statistics = cls(chunk, width, *others, capacity=n)
        statistics.merge(arrays)
        return statistics

    def _keep(self, features: np.ndarray) -> None:
        """Keep pool features of the images that follow; more than were announced double the room."""
        rows = slice(self.n, self.n + len(features))
        if rows.stop > len(self._features):
            grow = max(rows.stop, 2 * len(self._features)) - len(self._features)
            self._features = np.pad(self._features, ((0, grow), (0, 0)))
        self._features[rows] = features


class DiskRows:
    """Rows of one width as float16, which a standard error does not feel, in a file without a name.

    `spool[start:stop]` reads those rows, (n, width); values beyond float16 are clipped.
    """

    def __init__(self, width: int):
        self.width = width
        self._n = 0
        self._file = tempfile.TemporaryFile(prefix="dit-eval-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, width)."""
        limit = np.finfo(np.float16).max
        self._file.seek(0, 2)
        self._file.write(np.clip(rows, -limit, limit).astype(np.float16).tobytes())
        self._n += len(rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self._n)
        assert step == 1
        self._file.seek(2 * self.width * start)
        read = self._file.read(2 * self.width * (stop - start))
        return np.frombuffer(read, np.float16).reshape(-1, self.width)

    def rows(self) -> Rows:
        """All rows as an array that is written as it is read."""
        return Rows((self._n, self.width), np.float16, self._blocks())

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self._n, _BLOCK):
            yield self[start : start + _BLOCK]


def _whole(array: Stored) -> np.ndarray:
    return array.read() if isinstance(array, Member) else array


def _blocks(array: Stored) -> Iterator[np.ndarray]:
    """The rows of an array, a few at a time; those of a file once its checksum has been compared."""
    if not isinstance(array, Member):
        yield array
        return
    array.digest()
    yield from array.blocks(_BLOCK)
