"""From images to their feature statistics: a protocol on a device, shared among ranks, with a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.errors import BatchError, UsageError, require_positive
from dit_eval.evaluation.feature_stats import FeatureStats, in_memory
from dit_eval.features.extractor import FeatureExtractor, stream
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
        """Statistics of the images' features by this protocol alone; see `extract`."""
        return extract([self], images, role, progress)[0]

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

    def read_cache(self, entry: Path | None) -> tuple[FeatureStats, np.ndarray] | None:
        """The statistics in a cache entry, and the digest of their images as bytes.

        None if the entry is absent or damaged.
        """
        if entry is None or not _exists(entry):
            return None
        try:
            arrays = npz.members(entry)
            stats = FeatureStats.from_arrays(
                self.protocol.inception_score_chunk, arrays, str(self.extractor.device)
            )
            return stats, arrays["digest"].read()
        except (BatchError, LookupError, ValueError):
            return None

    def write_cache(self, entry: Path, stats: FeatureStats, digest: str) -> None:
        """Store the statistics of images with this digest; a failure is a warning."""
        if failure := store_features(entry, {**stats.to_arrays(), "digest": _array(digest)}):
            self.warnings.append(failure)

    def cache_key(self, first_digest: str) -> str:
        """The key of the cached features of images with this `first_digest`.

        It covers all that decides the features except the number of images and the images after the first
        ones; the digest of all images is stored beside the features.
        """
        fingerprint, device = self.protocol_record()["fingerprint"], self.extractor.device.type
        parts = (_CACHE_VERSION, first_digest, fingerprint, device, torch.__version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def extract(
    extractions: Sequence[FeatureExtraction], images: Images, role: str, progress: ExtractionProgress | None
) -> list[tuple[FeatureStats | None, dict[str, Any]]]:
    """By protocol, statistics of the images' features, and what a Result records of the images.

    Every image is read and decoded once for all protocols, except where a cache entry turns out to be of
    other images that begin like these. role: "samples" or "reference", as `progress` is told. Under torchrun
    every rank makes the call and extracts its share; the statistics are rank 0's, other ranks get None.
    """
    rank, digest = extractions[0].rank, ""
    entries: list[Path | None] = [None] * len(extractions)
    keys = [""] * len(extractions)
    if extractions[0].cache and rank.index == 0:
        first = images.first_digest()
        keys = [extraction.cache_key(first) for extraction in extractions]
        entries = [features_path(key, len(images)) for key in keys]
    with ThreadPoolExecutor(1) as thread:
        digesting = thread.submit(images.digest) if all(map(_exists, entries)) else None
        cached = [
            extraction.read_cache(entry) for extraction, entry in zip(extractions, entries, strict=True)
        ]
        if digesting:
            digest = digesting.result()
    extracted: dict[int, FeatureStats | None] = {}
    for _ in range(2):  # the digest of the first pass can show that an entry is of other images
        missing = [
            index
            for index, hit in enumerate(cached)
            if broadcast_from_rank0(rank, index not in extracted and not _holds(hit, digest))
        ]
        if missing:
            needed = [extractions[index] for index in missing]
            begun = _read_first_images(needed, [keys[index] for index in missing], images)
            stats, digest = _extract_shares(needed, images, begun, role, progress)
            extracted.update(zip(missing, stats, strict=True))
    if rank.index > 0:
        return [(None, {}) for _ in extractions]
    record, results = image_record(images, digest), []
    for index, (extraction, entry, hit) in enumerate(zip(extractions, entries, cached, strict=True)):
        if stats := extracted.get(index):
            if entry:
                extraction.write_cache(entry, stats, digest)
            results.append((stats, record))
        else:
            assert entry is not None
            assert hit is not None
            mark_used(entry)
            results.append((hit[0], {**record, "cached": True}))
    return results


def _read_first_images(
    extractions: Sequence[FeatureExtraction], keys: Sequence[str], images: Images
) -> tuple[list[FeatureStats], PixelDigest | None]:
    """By protocol, the cached statistics of the first images, and a digest that has hashed these.

    They are those of a batch that has been extended, if they end with a full block of the network: then
    adding the other images gives the numbers of all to the last bit. keys: of the cache, empty without one.
    Statistics of no images, and None, if there are no such entries or if one is damaged or of other images.
    """
    sizes = set.intersection(*(set(cached_sizes(key)) if key else set() for key in keys))
    full = [n for n in sizes if n < len(images) and n % extractions[0].batch_size == 0]
    if full:
        n, pixels = max(full), PixelDigest(images)
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(pixels.of_first, n)
            cached = [
                extraction.read_cache(features_path(key, n))
                for extraction, key in zip(extractions, keys, strict=True)
            ]
        if all(_holds(hit, digest.result()) for hit in cached):
            return [hit[0] for hit in cached if hit], pixels
    capacity = len(images) if extractions[0].rank.index == 0 else 0
    return [extraction.new_stats(capacity) for extraction in extractions], None


def _extract_shares(
    extractions: Sequence[FeatureExtraction],
    images: Images,
    begun: tuple[list[FeatureStats], PixelDigest | None],
    role: str,
    progress: ExtractionProgress | None,
) -> tuple[Sequence[FeatureStats | None], str]:
    """On rank 0 the statistics by protocol, after one pass of all ranks over the images, and the digest.

    begun: see `_read_first_images`; of other ranks nothing is. Rank 0 alone takes the digest: of the images
    that it reads for their features, then of those of the other ranks.
    """
    rank, (found, hashed) = extractions[0].rank, begun
    kept = broadcast_from_rank0(rank, found[0].n)
    start, stop = (kept + image for image in rank.share(len(images) - kept))
    blocks = images.blocks(extractions[0].batch_size, start, stop)
    if rank.index > 0:
        _update(found, extractions, blocks, role, progress, (start, stop))
        for extraction, stats in zip(extractions, found, strict=True):
            extraction.add_ranks(stats)
        return [None] * len(extractions), ""
    pixels = hashed or PixelDigest(images)
    _update(found, extractions, pixels.watch(blocks), role, progress, (start, stop))
    with ThreadPoolExecutor(1) as thread:
        digest = thread.submit(pixels.finish)
        for extraction, stats in zip(extractions, found, strict=True):
            extraction.add_ranks(stats)
        return found, digest.result()


def _update(
    found: Sequence[FeatureStats],
    extractions: Sequence[FeatureExtraction],
    blocks: Iterator[np.ndarray],
    role: str,
    progress: ExtractionProgress | None,
    share: tuple[int, int],
) -> None:
    """Add blocks of images to the statistics; share: which images of the file they are, start and stop."""
    start, stop = share
    kept = found[0].n
    for outputs in stream([extraction.extractor for extraction in extractions], blocks):
        for stats, activations in zip(found, outputs, strict=True):
            stats.update(activations, start + stats.n - kept)
        if progress:
            progress(role, found[0].n - kept, stop - start)
    for stats in found:
        stats.finish()


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


def load_extractions(
    protocols: Sequence[str | None], *, inception: str | Path | None = None, **options: Any
) -> list[FeatureExtraction]:
    """The named protocols, all with their networks loaded; for the options see `load_extraction`.

    inception: with several protocols it replaces the weights of those with the Inception. Raises UsageError
    if there is none, and as `load_extraction`.
    """
    replaced = list(protocols)
    if inception is not None and len(protocols) > 1:
        replaced = [name for name in protocols if protocol_named(name or "").network == INCEPTION]
        if not replaced:
            raise UsageError(
                f"none of the protocols {', '.join(map(str, protocols))} has the Inception. Give the weights "
                "of another network with its protocol alone."
            )
    return [
        load_extraction(name, inception=inception if name in replaced else None, **options)
        for name in protocols
    ]


def image_record(images: Images, digest: str) -> dict[str, Any]:
    """What a Result records of images with this digest that have been read."""
    crop = {"crop": images.crop} if images.crop else {}
    return {"n": len(images), "size": list(images.size), **crop, "digest": digest, "cached": False}


def _exists(entry: Path | None) -> bool:
    """True if a cache entry is there."""
    return entry is not None and os.path.exists(entry)  # noqa: PTH110 - Path.exists raises for a folder that is not ours


def _holds(cached: tuple[FeatureStats, np.ndarray] | None, digest: str) -> bool:
    """True if a cache entry is of images with this digest; an empty one is not known yet."""
    return cached is not None and (not digest or np.array_equal(cached[1], _array(digest)))


def _array(digest: str) -> np.ndarray:
    """A digest in hex as it is stored in a cache entry."""
    return np.frombuffer(bytes.fromhex(digest), np.uint8)
