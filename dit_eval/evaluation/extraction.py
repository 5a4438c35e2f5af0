"""From images to their feature statistics: a protocol on a device, shared among ranks, with a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import BatchError, require_positive
from dit_eval.evaluation.feature_stats import FeatureStats, in_memory
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import INCEPTION, Protocol, protocol_named
from dit_eval.io import assets, npz
from dit_eval.io.batches import Images, PixelDigest
from dit_eval.io.cache import cached_sizes, features_limit, features_path, store_features
from dit_eval.io.files import mark_used
from dit_eval.results.protocol_record import protocol_fingerprint
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, gather_to_rank0, sum_to_rank0

ExtractionProgress = Callable[[str, int, int], None]  # "samples" or "reference", images done, images in all

DEFAULT_PROTOCOL = "adm"
_CACHE_VERSION = 8


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
        key = self._cache_key(images) if self.cache and self.rank.index == 0 else None
        found = self._read_cache(key, images) if key else None
        kept = broadcast_from_rank0(self.rank, found[0].n if found else 0)
        if kept == len(images):
            stats, digest = (found[0], found[1].finish()) if found else (None, "")  # on other ranks
            return stats, {**image_record(images, digest), "cached": True}
        return self._extract_share(images, key, found, kept, role, progress)

    def new_stats(self, capacity: int = 0, *, intervals: bool = True) -> FeatureStats:
        """Statistics of no images yet; for the parameters see FeatureStats."""
        chunk, device = self.protocol.inception_score_chunk, str(self.extractor.device)
        dimensions = self.extractor.dimensions
        return FeatureStats(chunk, *dimensions, capacity=capacity, device=device, intervals=intervals)

    def protocol_record(self) -> dict[str, Any]:
        """The protocol section of a Result."""
        official = assets.pinned_sha256(assets.lookup("models", self.protocol.weights))
        weights = {
            "file": self.weights.name,
            "sha256": self.weights_sha256,
            "official": self.weights_sha256 == official,
        }
        record = {**asdict(self.protocol), "weights": weights}
        return {**record, "fingerprint": protocol_fingerprint(record)}

    def _extract_share(
        self,
        images: Images,
        key: str | None,
        found: tuple[FeatureStats, PixelDigest] | None,
        kept: int,
        role: str,
        progress: ExtractionProgress | None,
    ) -> tuple[FeatureStats | None, dict[str, Any]]:
        """See `extract`; key, found: of the cache, on rank 0; kept: the number of images in `found`.

        Rank 0 alone takes the digest: of the images that it reads for their features, then of those of the
        other ranks.
        """
        start, stop = (kept + image for image in self.rank.share(len(images) - kept))
        blocks = images.blocks(self.batch_size, start, stop)
        if self.rank.index > 0:
            stats = self.new_stats()
            self._update(stats, blocks, role, progress, (start, stop))
            self.add_ranks(stats)
            return None, {}
        stats, pixels = found or (self.new_stats(capacity=len(images)), PixelDigest(images))
        self._update(stats, pixels.watch(blocks), role, progress, (start, stop))
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(pixels.finish)
            self.add_ranks(stats)
            record = image_record(images, digest.result())
        if key:
            arrays = {**stats.to_arrays(), "digest": _array(record["digest"])}
            if failure := store_features(features_path(key, len(images)), arrays):
                self.warnings.append(failure)
        return stats, record

    def _update(
        self,
        stats: FeatureStats,
        blocks: Iterator[np.ndarray],
        role: str,
        progress: ExtractionProgress | None,
        share: tuple[int, int],
    ) -> None:
        """Add blocks of images; share: which images of the file they are, start and stop."""
        start, stop = share
        kept = stats.n
        for outputs in self.extractor.stream(blocks):
            stats.update(outputs, start + stats.n - kept)
            if progress:
                progress(role, stats.n - kept, stop - start)
        stats.finish()

    def add_ranks(self, stats: FeatureStats) -> None:
        """Add the statistics of all other ranks to those of rank 0; on another rank, send its own."""
        if self.rank.count == 1:
            return
        moments = sum_to_rank0(stats.moments())
        shares = gather_to_rank0(self.rank, in_memory(stats.to_arrays()))
        for share in shares[1:]:
            stats.append(share, moments=False)
        if shares:
            stats.set_moments(moments)

    def _read_cache(self, key: str, images: Images) -> tuple[FeatureStats, PixelDigest] | None:
        """The cached statistics of all images or else of the first ones, and a digest that has hashed these.

        Statistics of the first ones are those of the images of a batch that has been extended. They are used
        if they end with a full block of the network: then adding the others gives the numbers of all images
        to the last bit. None if there is no entry, or if it is damaged or of other images.
        """
        for n in cached_sizes(key):
            if n == len(images) or (n < len(images) and n % self.batch_size == 0):
                return self._read_entry(features_path(key, n), n, images)
        return None

    def _read_entry(self, entry: Path, n: int, images: Images) -> tuple[FeatureStats, PixelDigest] | None:
        """See `_read_cache`; entry: that of the first n images, whose digest is taken at the same time."""
        chunk, device = self.protocol.inception_score_chunk, str(self.extractor.device)
        pixels = PixelDigest(images)
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(pixels.of_first, n)
            try:
                arrays = npz.members(entry)
                stats = FeatureStats.from_arrays(chunk, arrays, device)
                recorded = arrays["digest"].read()
            except (BatchError, LookupError, ValueError):
                return None
        if not np.array_equal(recorded, _array(digest.result())):
            return None
        mark_used(entry)
        return stats, pixels

    def _cache_key(self, images: Images) -> str:
        """The key of the cached features of these images.

        It covers all that decides the features except the number of images and the images after the first
        ones; the digest of all images is stored beside the features.
        """
        fingerprint, device = self.protocol_record()["fingerprint"], self.extractor.device.type
        parts = (_CACHE_VERSION, images.first_digest(), fingerprint, device, torch.__version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


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


def image_record(images: Images, digest: str) -> dict[str, Any]:
    """What a Result records of images with this digest that have been read."""
    crop = {"crop": images.crop} if images.crop else {}
    return {"n": len(images), "size": list(images.size), **crop, "digest": digest, "cached": False}


def _array(digest: str) -> np.ndarray:
    """A digest in hex as it is stored in a cache entry."""
    return np.frombuffer(bytes.fromhex(digest), np.uint8)
