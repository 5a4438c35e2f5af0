"""What is kept of a batch of images once its features have been seen: in memory and on disk."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.io.npz import Member, Rows
from dit_eval.metrics.blocks import BLOCK_ROWS
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums

if TYPE_CHECKING:
    from dit_eval.features.extractor import Features  # imports torch

Stored = np.ndarray | Member


class FeatureStats:
    """Moments of pool and spatial features, sums for the inception score, and the features of single images.

    Precision and recall need the pool features, which stay in memory. Confidence intervals also need the
    spatial features and the probabilities, which are kept in a temporary file.
    """

    def __init__(self, chunk: int, pool_dim: int, spatial_dim: int, classes: int, capacity: int):
        """chunk: images per chunk of the inception score; capacity: expected images, 0 if unknown."""
        self.score = InceptionScore(chunk)
        self.spatial_features = DiskRows(spatial_dim, np.float32)
        self.probabilities = DiskRows(classes, np.float16)
        self._pool, self._spatial = Moments(pool_dim), Moments(spatial_dim)
        self._features = np.empty((capacity, pool_dim), np.float32)  # memory is committed as rows are written

    @property
    def n(self) -> int:
        """Number of images."""
        return self._pool.n

    @property
    def features(self) -> np.ndarray:
        """Pool features in file order: (N, D), float32."""
        return self._features[: self.n]

    @property
    def pool(self) -> Gaussian:
        """Mean and covariance of the pool features. Raises StatisticsError for fewer than two images."""
        return self._pool.gaussian()

    @property
    def spatial(self) -> Gaussian:
        """Mean and covariance of the spatial features. Raises StatisticsError for fewer than two images."""
        return self._spatial.gaussian()

    def update(self, features: Features, start: int) -> None:
        """Add the features of images start… of the file. Raises StatisticsError if one is not finite."""
        if not all(np.isfinite(array).all() for array in features):
            raise StatisticsError(
                f"the network gives NaN or infinity for images from {start} on; its weights are damaged "
                "or not those of this protocol."
            )
        self._append(features.pool)
        self.spatial_features.append(features.spatial)
        self.probabilities.append(features.probabilities)
        self.score.update(features.probabilities, start)
        self._pool.update(features.pool)
        self._spatial.update(features.spatial)

    def to_arrays(self) -> dict[str, np.ndarray | Rows]:
        """Everything as named arrays, for a file or another process; arrays on disk as Rows.

        The moments are not among them: `merge` computes them from the features, which are smaller for few
        images and give the same sums whoever extracted them.
        """
        chunks = sorted(self.score.sums)
        sums = [self.score.sums[index] for index in chunks]
        return {
            "score_chunk": np.array(chunks, np.int64),
            "score_n": np.array([chunk.n for chunk in sums], np.int64),
            "score_plogp": np.array([chunk.plogp for chunk in sums]),
            "score_p": np.array([chunk.p for chunk in sums]).reshape(-1, self.probabilities.dimension),
            "features": self.features,
            "spatial_features": self.spatial_features.rows(),
            "probabilities": self.probabilities.rows(),
        }

    def merge(self, arrays: Mapping[str, Stored]) -> None:
        """Add the images that follow in file order, as arrays of `to_arrays` or members of such a file."""
        for features in _blocks(arrays["features"]):
            self._append(features)
            self._pool.update(features)
        for features in _blocks(arrays["spatial_features"]):
            self.spatial_features.append(features)
            self._spatial.update(features)
        for probabilities in _blocks(arrays["probabilities"]):
            self.probabilities.append(probabilities)
        scores = (_read(arrays[f"score_{field}"]) for field in ("chunk", "n", "plogp", "p"))
        for index, count, plogp, p in zip(*scores, strict=True):
            self.score.add(int(index), ScoreSums(int(count), float(plogp), p))

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, Stored]) -> FeatureStats:
        """The inverse of `to_arrays`. Raises BatchError where members of a file are damaged."""
        n, pool_dim = arrays["features"].shape
        dimensions = (arrays[name].shape[1] for name in ("spatial_features", "probabilities"))
        stats = cls(chunk, pool_dim, *dimensions, capacity=n)
        stats.merge(arrays)
        return stats

    def _append(self, features: np.ndarray) -> None:
        """Keep the pool features of the images that follow; the array doubles where it is too short."""
        rows = slice(self.n, self.n + len(features))
        if rows.stop > len(self._features):
            missing = max(rows.stop, 2 * len(self._features)) - len(self._features)
            self._features = np.pad(self._features, ((0, missing), (0, 0)))
        self._features[rows] = features


class DiskRows:
    """Disk-backed row buffer of one floating-point type.

    float16 is accurate enough for standard errors; values beyond the range of the type are clipped.
    `rows[start:stop]` reads (stop - start, dimension). The file has no name and disappears with the object.
    """

    def __init__(self, dimension: int, dtype: type[np.floating]):
        self.dimension, self.dtype = dimension, np.dtype(dtype)
        self._n = 0
        self._file = tempfile.TemporaryFile(prefix="dit-eval-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, dimension). Raises StatisticsError if the folder for temporary files is full."""
        limit = np.finfo(self.dtype).max
        try:
            self._file.seek(0, 2)
            self._file.write(np.clip(rows, -limit, limit).astype(self.dtype).tobytes())
            self._file.flush()
        except OSError as error:
            raise StatisticsError(
                f"the folder for temporary files, {tempfile.gettempdir()}, cannot hold the features "
                f"({error.strerror or error}). Free some space, or set TMPDIR to a folder on another disk."
            ) from None
        self._n += len(rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self._n)
        assert step == 1
        row_bytes = self.dtype.itemsize * self.dimension
        self._file.seek(row_bytes * start)
        content = self._file.read(row_bytes * (stop - start))
        return np.frombuffer(content, self.dtype).reshape(-1, self.dimension)

    def rows(self) -> Rows:
        """All rows as an array that is read from disk while it is written elsewhere."""
        return Rows((self._n, self.dimension), self.dtype, self._blocks())

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self._n, BLOCK_ROWS):
            yield self[start : start + BLOCK_ROWS]


def _read(array: Stored) -> np.ndarray:
    return array.read() if isinstance(array, Member) else array


def _blocks(array: Stored) -> Iterator[np.ndarray]:
    """The rows of an array in blocks; those of a file once its checksum has been compared."""
    if not isinstance(array, Member):
        yield array
        return
    array.digest()
    yield from array.blocks(BLOCK_ROWS)
