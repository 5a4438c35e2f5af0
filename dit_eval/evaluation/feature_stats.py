"""What is kept of a batch of images once its features have been seen: in memory and on disk."""

from __future__ import annotations

import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.io.npz import Member, Rows
from dit_eval.metrics.blocks import BLOCK_ROWS, row_blocks
from dit_eval.metrics.gaussian import Gaussian, Moments, moments_on
from dit_eval.metrics.inception_score import InceptionScore, ScoreSums, score_sums
from dit_eval.runtime.transfer import HostCopy, host_array

if TYPE_CHECKING:
    from dit_eval.features.network import Activations

Stored = np.ndarray | Member

_IN_FLIGHT = 8  # blocks whose features may be on their way from the device


class FeatureStats:
    """Moments of pool and spatial features, sums for the inception score, and the features of single images.

    Precision and recall need the pool features, which stay in memory. Confidence intervals also need the
    spatial features and the probabilities, which are kept in a temporary file. Sums are computed on the
    device of the features; the features of single images are copied to the host while the device works on
    those that follow.
    """

    def __init__(
        self,
        chunk: int,
        pool_dim: int,
        spatial_dim: int,
        classes: int,
        capacity: int,
        device: str = "cpu",
        *,
        intervals: bool = True,
    ):
        """chunk: images per chunk of the inception score; capacity: expected images, 0 if unknown.

        intervals: False keeps no spatial features and probabilities of single images.
        """
        self.intervals = intervals
        self.score = InceptionScore(chunk)
        self.spatial_features = DiskRows(spatial_dim, np.float32)
        self.probabilities = DiskRows(classes, np.float16)
        self._pool, self._spatial = moments_on(device, pool_dim), moments_on(device, spatial_dim)
        self._features = np.empty((capacity, pool_dim), np.float32)  # memory is committed as rows are written
        self._kept = 0  # images whose features are in `_features`
        self._arriving: deque[tuple[tuple[int, int], HostCopy]] = deque()  # start and stride, features

    @property
    def n(self) -> int:
        """Number of images."""
        return self._pool.n

    @property
    def features(self) -> np.ndarray:
        """Pool features in file order: (N, D), float32."""
        return self._features[: self._kept]

    @property
    def pool(self) -> Gaussian:
        """Mean and covariance of the pool features. Raises StatisticsError for fewer than two images."""
        return self._pool.gaussian()

    @property
    def spatial(self) -> Gaussian:
        """Mean and covariance of the spatial features. Raises StatisticsError for fewer than two images."""
        return self._spatial.gaussian()

    def update(self, outputs: Activations, start: int, stride: int = 1) -> None:
        """Add the features of images start, start + stride, … of the file.

        Those on a CUDA device are kept later, at the latest in `finish`. Raises StatisticsError if an earlier
        one or one on the CPU is not finite.
        """
        halves = outputs.probabilities.half()
        pool, spatial, probabilities, halves = (host_array(x) for x in (*outputs, halves))
        sums = [score_sums(probabilities[rows]) for _, rows in self.score.chunks(start, len(pool), stride)]
        self._arriving.append(((start, stride), HostCopy(pool, spatial, halves, *sums)))
        while self._arriving and (self._arriving[0][1].arrived() or len(self._arriving) > _IN_FLIGHT):
            self._keep_first()
        self._pool.update(pool)
        self._spatial.update(spatial)

    def finish(self) -> None:
        """Keep all features that were added. Raises StatisticsError if one is not finite."""
        while self._arriving:
            self._keep_first()

    def _keep_first(self) -> None:
        """Keep the features of the images that were added first."""
        (start, stride), copy = self._arriving.popleft()
        pool, spatial, probabilities, *sums = copy.arrays()
        if not all(np.isfinite(array).all() for array in (pool, spatial, probabilities)):
            raise StatisticsError(
                f"the network gives NaN or infinity for images from {start} on; its weights are damaged "
                "or not those of this protocol."
            )
        self._append(pool)
        if self.intervals:
            self.spatial_features.append(spatial)
            self.probabilities.append(probabilities)
        for (index, rows), values in zip(self.score.chunks(start, len(pool), stride), sums, strict=True):
            self.score.add(index, ScoreSums(rows.stop - rows.start, values))

    def to_arrays(self) -> dict[str, np.ndarray | Rows]:
        """Everything as named arrays, for a file or another process; arrays on disk as Rows.

        The moments are not among them: they follow from the features, which are smaller for few images.
        """
        chunks = sorted(self.score.sums)
        sums, classes = [self.score.sums[index] for index in chunks], self.probabilities.dimension
        return {
            "score_chunk": np.array(chunks, np.int64),
            "score_n": np.array([chunk.n for chunk in sums], np.int64),
            "score_sums": np.array([chunk.sums for chunk in sums]).reshape(-1, 1 + classes),
            "features": self.features,
            "spatial_features": self.spatial_features.rows(),
            "probabilities": self.probabilities.rows(),
        }

    def append(self, arrays: Mapping[str, Stored], *, moments: bool) -> None:
        """Add the images that follow in file order, as arrays of `to_arrays` or members of such a file.

        moments: False leaves the moments as they are, for `set_moments`.
        """
        for features in _blocks(arrays["features"]):
            self._append(features)
            if moments:
                self._pool.update(features)
        for features in _blocks(arrays["spatial_features"]):
            self.spatial_features.append(features)
            if moments:
                self._spatial.update(features)
        for probabilities in _blocks(arrays["probabilities"]):
            self.probabilities.append(probabilities)
        scores = (_read(arrays[f"score_{field}"]) for field in ("chunk", "n", "sums"))
        for index, count, sums in zip(*scores, strict=True):
            self.score.add(int(index), ScoreSums(int(count), sums))

    def copy(self) -> FeatureStats:
        """Statistics of the same images, to which others can be added."""
        dimensions = (self._features.shape[1], self.spatial_features.dimension, self.probabilities.dimension)
        stats = FeatureStats(self.score.chunk, *dimensions, capacity=self.n, intervals=self.intervals)
        stats.append(in_memory(self.to_arrays()), moments=False)
        stats.set_moments(self.moments())
        return stats

    def reorder(self, order: np.ndarray) -> None:
        """Put the features of single images into another order: (N,), the present index of each image."""
        self._features[: self._kept] = self.features[order]
        if self.intervals:
            self.spatial_features = self.spatial_features.reordered(order)
            self.probabilities = self.probabilities.reordered(order)

    def moments(self) -> dict[str, np.ndarray]:
        """n, Σx and Σxxᵀ of both kinds of features, which can be added to those of other images."""
        (pool, pool_outer), (spatial, spatial_outer) = self._pool.sums(), self._spatial.sums()
        sums = {"pool": pool, "pool_outer": pool_outer, "spatial": spatial, "spatial_outer": spatial_outer}
        return {"n": np.array([self.n], np.float64), **sums}

    def set_moments(self, sums: Mapping[str, np.ndarray]) -> None:
        """Replace the moments by those of all images; see `moments`."""
        n = int(sums["n"][0])
        self._pool = Moments.from_sums(n, sums["pool"], sums["pool_outer"])
        self._spatial = Moments.from_sums(n, sums["spatial"], sums["spatial_outer"])

    @classmethod
    def from_arrays(cls, chunk: int, arrays: Mapping[str, Stored], device: str = "cpu") -> FeatureStats:
        """The inverse of `to_arrays`. Raises BatchError where members of a file are damaged."""
        n, pool_dim = arrays["features"].shape
        dimensions = (arrays[name].shape[1] for name in ("spatial_features", "probabilities"))
        stats = cls(chunk, pool_dim, *dimensions, capacity=n, device=device)
        stats.append(arrays, moments=True)
        return stats

    def _append(self, features: np.ndarray) -> None:
        """Keep the pool features of the images that follow; the array doubles where it is too short."""
        rows = slice(self._kept, self._kept + len(features))
        if rows.stop > len(self._features):
            missing = max(rows.stop, 2 * len(self._features)) - len(self._features)
            self._features = np.pad(self._features, ((0, missing), (0, 0)))
        self._features[rows] = features
        self._kept = rows.stop


class DiskRows:
    """Disk-backed row buffer of one floating-point type.

    float16 is accurate enough for standard errors; values beyond the range of the type are clipped.
    `rows[start:stop]` reads (stop - start, dimension). The file has no name and disappears with the object.
    """

    def __init__(self, dimension: int, dtype: type[np.floating]):
        self.dimension, self.dtype = dimension, np.dtype(dtype)
        self._n = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="dit-eval-")  # noqa: SIM115
        except OSError as error:
            raise StatisticsError(
                f"a temporary file for the features cannot be made ({error.strerror or error}). "
                "Set TMPDIR to a writable folder."
            ) from None
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
        return np.frombuffer(content, self.dtype).reshape(max(stop - start, 0), self.dimension)

    def rows(self) -> Rows:
        """All rows as an array that is read from disk while it is written elsewhere."""
        return Rows((self._n, self.dimension), self.dtype, self._blocks())

    def reordered(self, order: np.ndarray) -> DiskRows:
        """The same rows in another order: (N,), the present index of each row."""
        reordered = DiskRows(self.dimension, self.dtype.type)
        if not self.dimension:
            reordered._n = self._n
            return reordered
        rows = np.memmap(self._file, self.dtype, "r", shape=(self._n, self.dimension))
        for block in row_blocks(self._n):
            reordered.append(rows[order[block]])
        return reordered

    def _blocks(self) -> Iterator[np.ndarray]:
        for rows in row_blocks(self._n):
            yield self[rows]


def in_memory(arrays: Mapping[str, np.ndarray | Rows]) -> dict[str, np.ndarray]:
    """Arrays of `to_arrays`, those on disk read into memory."""
    return {
        name: np.concatenate([np.empty((0, *array.shape[1:]), array.dtype), *array.blocks])
        if isinstance(array, Rows)
        else array
        for name, array in arrays.items()
    }


def _read(array: Stored) -> np.ndarray:
    return array.read() if isinstance(array, Member) else array


def _blocks(array: Stored) -> Iterator[np.ndarray]:
    """The rows of an array in blocks; those of a file once its checksum has been compared."""
    if not isinstance(array, Member):
        yield array
        return
    array.digest()
    yield from array.blocks(BLOCK_ROWS)
