"""From images to their feature statistics: a protocol on a device, shared among ranks, with a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import BatchError, require_positive
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import INCEPTION, Protocol, protocol_named
from dit_eval.io import assets, npz
from dit_eval.io.batches import Images
from dit_eval.io.cache import features_limit, features_path, store_features
from dit_eval.io.files import mark_used
from dit_eval.results.protocol_record import protocol_fingerprint
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, gather_to_rank0

ExtractionProgress = Callable[[str, int, int], None]  # "samples" or "reference", images done, images in all

DEFAULT_PROTOCOL = "adm"
_CACHE_VERSION = 6


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction:
    """A protocol with its weights on a device.

    warnings: what went wrong in `extract` without changing the statistics.
    """

    protocol: Protocol
    weights: Path
    weights_sha256: str
    extractor: FeatureExtractor
    batch_size: int
    rank: Rank
    cache: bool
    warnings: list[str] = field(default_factory=list)

    def extract(
        self, images: Images, role: str, progress: ExtractionProgress | None
    ) -> tuple[FeatureStats | None, dict[str, Any]]:
        """Statistics of the images' features, and what a Result records of the images.

        role: "samples" or "reference", as `progress` is told. Under torchrun every rank makes the call and
        extracts its share; the statistics are rank 0's, other ranks get None.
        """
        if images.once:
            stats = self._extract_share(images, role, progress)
            return stats, _image_record(images)
        record = _image_record(images)
        entry = self._cache_entry(record["digest"])
        cached = self._read_cache(entry) if entry and self.rank.index == 0 else None
        if broadcast_from_rank0(self.rank, cached is not None):
            return cached, {**record, "cached": True}
        stats = self._extract_share(images, role, progress)
        if self.rank.count > 1:
            shares = gather_to_rank0(self.rank, _in_memory(stats.to_arrays()))
            if not shares:
                return None, record
            for share in shares[1:]:
                stats.merge(share)
        if entry and (failure := store_features(entry, stats.to_arrays())):
            self.warnings.append(failure)
        return stats, record

    def protocol_record(self) -> dict[str, Any]:
        """The protocol section of a Result."""
        official = assets.lookup("models", self.protocol.weights).sha256
        weights = {
            "file": self.weights.name,
            "sha256": self.weights_sha256,
            "official": self.weights_sha256 == official,
        }
        record = {**asdict(self.protocol), "weights": weights}
        return {**record, "fingerprint": protocol_fingerprint(record)}

    def _extract_share(self, images: Images, role: str, progress: ExtractionProgress | None) -> FeatureStats:
        """Statistics of this rank's share of the images; rank 0 reserves memory for all of them."""
        start, stop = (0, None) if images.once else self.rank.share(len(images))
        capacity = 0 if stop is None else len(images) if self.rank.index == 0 else stop - start
        chunk = self.protocol.inception_score_chunk
        stats = FeatureStats(chunk, *self.extractor.dimensions, capacity=capacity)
        for features in self.extractor.stream(images, self.batch_size, start, stop):
            stats.update(features, start + stats.n)
            if progress:
                progress(role, stats.n, stats.n if stop is None else stop - start)
        return stats

    def _read_cache(self, entry: Path) -> FeatureStats | None:
        """The statistics in a cache entry; None if it is absent or damaged, and then written anew."""
        try:
            stats = FeatureStats.from_arrays(self.protocol.inception_score_chunk, npz.members(entry))
        except (BatchError, LookupError, ValueError):
            return None
        mark_used(entry)
        return stats

    def _cache_entry(self, digest: str) -> Path | None:
        """The cache file for images of this digest; its name covers all that decides the features."""
        if not self.cache:
            return None
        fingerprint, device = self.protocol_record()["fingerprint"], self.extractor.device.type
        parts = (_CACHE_VERSION, digest, fingerprint, device, torch.__version__)
        return features_path(hashlib.sha256(repr(parts).encode()).hexdigest())


def load_extraction(
    protocol: str | None,
    *,
    inception: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    cache: bool = True,
) -> FeatureExtraction:
    """The named protocol, "adm" for None, with its network loaded. Raises UsageError or AssetError.

    inception: a file of weights used instead of the registered ones, for protocols with the Inception by
    default $DIT_EVAL_INCEPTION; results that use it are marked.
    """
    require_positive(batch_size=batch_size)
    features_limit()  # raises before the work rather than after it
    chosen = protocol_named(protocol or DEFAULT_PROTOCOL)
    rank = Rank.from_environment()
    torch_device = rank.device(device)
    if inception is None and chosen.network == INCEPTION:
        inception = os.environ.get("DIT_EVAL_INCEPTION") or None
    if inception is not None:
        weights = Path(inception)
    else:
        weights = assets.fetch(assets.lookup("models", chosen.weights), offline=offline)
    extractor = FeatureExtractor(chosen, weights, torch_device)
    return FeatureExtraction(
        protocol=chosen,
        weights=weights,
        weights_sha256=assets.sha256(weights),
        extractor=extractor,
        batch_size=batch_size,
        rank=rank,
        cache=cache,
    )


def _image_record(images: Images) -> dict[str, Any]:
    return {"n": len(images), "size": list(images.size), "digest": images.digest(), "cached": False}


def _in_memory(arrays: Mapping[str, np.ndarray | npz.Rows]) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([np.empty((0, *array.shape[1:]), array.dtype), *array.blocks])
        if isinstance(array, npz.Rows)
        else array
        for name, array in arrays.items()
    }
