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
from dit_eval.io.cache import features_limit, features_path, store_features
from dit_eval.io.files import mark_used
from dit_eval.results.protocol_record import protocol_fingerprint
from dit_eval.runtime.distributed import Rank, broadcast_from_rank0, gather_to_rank0, sum_to_rank0

ExtractionProgress = Callable[[str, int, int], None]  # "samples" or "reference", images done, images in all

DEFAULT_PROTOCOL = "adm"
_CACHE_VERSION = 7


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
        entry = self._cache_entry(images) if self.cache and self.rank.index == 0 else None
        cached = self._read_cache(entry, images) if entry else None
        if broadcast_from_rank0(self.rank, cached is not None):
            stats, digest = cached or (None, "")  # on other ranks
            return stats, {**image_record(images, digest), "cached": True}
        return self._extract_share(images, entry, role, progress)

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
        self, images: Images, entry: Path | None, role: str, progress: ExtractionProgress | None
    ) -> tuple[FeatureStats | None, dict[str, Any]]:
        """See `extract`; entry: the cache entry to be written.

        Rank 0 alone takes the digest: of the images that it reads for their features, then of those of the
        other ranks.
        """
        share = self.rank.share(len(images))
        blocks = images.blocks(self.batch_size, *share)
        if self.rank.index > 0:
            self.add_ranks(self._statistics(blocks, role, progress, share))
            return None, {}
        pixels = PixelDigest(images)
        stats = self._statistics(pixels.watch(blocks), role, progress, share, capacity=len(images))
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(pixels.finish)
            self.add_ranks(stats)
            record = image_record(images, digest.result())
        if entry:
            arrays = {**stats.to_arrays(), "digest": _array(record["digest"])}
            if failure := store_features(entry, arrays):
                self.warnings.append(failure)
        return stats, record

    def _statistics(
        self,
        blocks: Iterator[np.ndarray],
        role: str,
        progress: ExtractionProgress | None,
        share: tuple[int, int],
        capacity: int = 0,
    ) -> FeatureStats:
        """Statistics of blocks of images.

        share: which images of the file they are, start and stop; capacity: see FeatureStats.
        """
        start, stop = share
        stats = self.new_stats(capacity)
        for outputs in self.extractor.stream(blocks):
            stats.update(outputs, start + stats.n)
            if progress:
                progress(role, stats.n, stop - start)
        stats.finish()
        return stats

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

    def _read_cache(self, entry: Path, images: Images) -> tuple[FeatureStats, str] | None:
        """The statistics in a cache entry, and the digest of the images, which is taken at the same time.

        None if the entry is absent or damaged, or of other images that begin like these.
        """
        if not os.path.exists(entry):  # noqa: PTH110 - Path.exists raises for a folder that is not ours
            return None
        chunk, device = self.protocol.inception_score_chunk, str(self.extractor.device)
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(images.digest)
            try:
                arrays = npz.members(entry)
                stats = FeatureStats.from_arrays(chunk, arrays, device)
                recorded = arrays["digest"].read()
            except (BatchError, LookupError, ValueError):
                return None
        if not np.array_equal(recorded, _array(digest.result())):
            return None
        mark_used(entry)
        return stats, digest.result()

    def _cache_entry(self, images: Images) -> Path:
        """The file of the cached features of these images, if there are any.

        Its name covers all that decides the features except the images after the first ones; the digest of
        all images is stored in it.
        """
        fingerprint, device = self.protocol_record()["fingerprint"], self.extractor.device.type
        parts = (_CACHE_VERSION, images.first_digest(), fingerprint, device, torch.__version__)
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


def image_record(images: Images, digest: str) -> dict[str, Any]:
    """What a Result records of images with this digest that have been read."""
    crop = {"crop": images.crop} if images.crop else {}
    return {"n": len(images), "size": list(images.size), **crop, "digest": digest, "cached": False}


def _array(digest: str) -> np.ndarray:
    """A digest in hex as it is stored in a cache entry."""
    return np.frombuffer(bytes.fromhex(digest), np.uint8)
