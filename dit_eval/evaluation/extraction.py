"""From images to their statistics: a protocol on a device, over many processes, with a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import BatchError
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import Protocol, protocol_named
from dit_eval.io import assets, npz
from dit_eval.io.batches import Images
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, gather_to_rank0

Progress = Callable[[str, int, int], None]  # whose images, how many are done, how many there are

STANDARD = "adm"  # the protocol where nobody names one
_CACHE_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction:
    """A protocol with its weights on a device: what turns images into statistics."""

    protocol: Protocol
    weights: Path
    sha256: str
    extractor: FeatureExtractor
    batch_size: int
    rank: Rank
    cache: bool

    @property
    def fingerprint(self) -> str:
        """Of the protocol with these weights."""
        return self.protocol.fingerprint(self.sha256)

    def extract(
        self, images: Images, whose: str, progress: Progress | None
    ) -> tuple[FeatureStats | None, dict[str, Any]]:
        """Statistics of the images (None on ranks other than 0) and what to say of them in a Result."""
        if images.once:
            statistics = self._extract(images, whose, progress)
            return statistics, _describe(images)
        about = _describe(images)
        entry = self._cache_entry(about["digest"])
        kept = self._kept(entry) if entry and self.rank.index == 0 else None
        if broadcast_from_rank0(self.rank, kept is not None):
            return kept, {**about, "cached": True}
        statistics = self._extract(images, whose, progress)
        if self.rank.count > 1:
            parts = gather_to_rank0(self.rank, _in_memory(statistics.to_arrays()))
            if not parts:
                return None, about
            for part in parts[1:]:
                statistics.merge(part)
        if entry:
            entry.parent.mkdir(parents=True, exist_ok=True)
            npz.write_npz(entry, statistics.to_arrays())
        return statistics, about

    def describe(self) -> dict[str, Any]:
        """The protocol section of a Result."""
        official = assets.lookup("models", self.protocol.weights).sha256
        weights = {"file": self.weights.name, "sha256": self.sha256, "official": self.sha256 == official}
        return {**asdict(self.protocol), "fingerprint": self.fingerprint, "weights": weights}

    def _extract(self, images: Images, whose: str, progress: Progress | None) -> FeatureStats:
        """Statistics of this rank's share of the images; rank 0 has room for the others'."""
        start, stop = (0, None) if images.once else self.rank.share(len(images))
        known = 0 if stop is None else len(images) if self.rank.index == 0 else stop - start
        statistics = FeatureStats(
            self.protocol.inception_score_chunk, *self.extractor.dimensions, capacity=known
        )
        for features in self.extractor.stream(images, self.batch_size, start, stop):
            statistics.update(features, start + statistics.n)
            if progress:
                progress(whose, statistics.n, statistics.n if stop is None else stop - start)
        return statistics

    def _kept(self, entry: Path) -> FeatureStats | None:
        """The statistics of a cache entry; none if it is absent or damaged, and then it is written anew."""
        try:
            return FeatureStats.from_arrays(self.protocol.inception_score_chunk, npz.members(entry))
        except (BatchError, KeyError):
            return None

    def _cache_entry(self, digest: str) -> Path | None:
        """Where these statistics are kept: named by all that decides them, up to the batch size."""
        if not self.cache:
            return None
        parts = (_CACHE_VERSION, digest, self.fingerprint, self.extractor.device.type, torch.__version__)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        return assets.cache_dir() / "features" / f"{key}.npz"


def load_extraction(
    protocol: str | None,
    *,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    cache: bool = True,
) -> FeatureExtraction:
    """The named protocol, "adm" for None, ready to measure. Raises UsageError or AssetError.

    inception: a file of weights instead of the registered one; such results are marked.
    """
    chosen = protocol_named(protocol or STANDARD)
    rank = Rank.from_environment()
    where = rank.device(device)
    if inception is not None:
        weights = Path(inception)
    else:
        weights = assets.fetch(assets.lookup("models", chosen.weights), offline=offline)
    extractor = FeatureExtractor(chosen, weights, where)
    return FeatureExtraction(
        protocol=chosen,
        weights=weights,
        sha256=assets.sha256(weights),
        extractor=extractor,
        batch_size=batch_size,
        rank=rank,
        cache=cache,
    )


def _describe(images: Images) -> dict[str, Any]:
    return {"n": len(images), "size": list(images.size), "digest": images.digest(), "cached": False}


def _in_memory(arrays: Mapping[str, np.ndarray | npz.Rows]) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([np.empty((0, *array.shape[1:]), array.dtype), *array.blocks])
        if isinstance(array, npz.Rows)
        else array
        for name, array in arrays.items()
    }
