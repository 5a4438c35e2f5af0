"""References: images, stored statistics, or both; and how to make one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.errors import BatchError, StatisticsError, UsageError
from dit_eval.io import assets, npz
from dit_eval.io.addresses import asset_at, is_address, named_by_address
from dit_eval.io.batches import Images, NpzImages, open_images, other_key, require_image_size
from dit_eval.io.crops import NO_OPTIONS, ImageOptions
from dit_eval.io.files import file_kind, parse_json
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.results.protocol_record import upgraded_protocol

if TYPE_CHECKING:
    from dit_eval.evaluation.feature_stats import FeatureStats  # imports torch

# ADM's names: pool (FID) and spatial (sFID) statistics.
_POOL, _SPATIAL = ("mu", "sigma"), ("mu_s", "sigma_s")
_POOL_OF_JAX = ("ref_mu", "ref_sigma")  # as MeanFlow and its descendants write them
_PROVENANCE = "provenance"


@dataclass(frozen=True)
class Reference:
    """The reference of an evaluation: images, stored statistics, or both; what it lacks is None.

    provenance: what `ref make` recorded (protocol, weights, n); empty for other files; path_notes: sentences
    about the choice of the file.
    """

    path: Path
    images: Images | None
    pool: Gaussian | None
    spatial: Gaussian | None
    provenance: dict[str, Any]
    path_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader of the result must know; complete once all images have been read."""
        return (*self.path_notes, *(self.images.notes if self.images else ()))

    @property
    def protocol(self) -> str | None:
        """The name of the protocol that `ref make` used, None for other files."""
        return self.provenance.get("protocol", {}).get("name")

    def statistics_digest(self) -> str | None:
        """SHA-256 of the stored means and covariances, None if there are none."""
        stored = [gaussian for gaussian in (self.pool, self.spatial) if gaussian]
        if not stored:
            return None
        sha = hashlib.sha256()
        for gaussian in stored:
            sha.update(np.ascontiguousarray(gaussian.mean).data)
            sha.update(np.ascontiguousarray(gaussian.covariance).data)
        return sha.hexdigest()


def open_reference(
    name: str | Path, *, offline: bool = False, options: ImageOptions = NO_OPTIONS
) -> Reference:
    """The reference behind a path, an address or a registered name.

    options: an .npz without an array of this key is read like one of `ref make`.
    Raises UsageError for an unknown name, BatchError or StatisticsError for a file that is not one.
    """
    if not isinstance(name, (str, Path)):
        raise UsageError(f"reference is of type {type(name).__name__}; expected a path or a registered name.")
    path, notes = Path(name), ()
    if is_address(name):
        path = assets.fetch(asset_at(str(name), "reference_stats"), offline=offline)
    elif path.exists():
        if str(name) in assets.manifest("reference_stats"):
            notes = (
                f"the reference is the local {path.resolve()}, not the registered {name}: a path that exists "
                "goes before a name. Run from another folder to use the registered one.",
            )
    elif path.suffix or len(path.parts) > 1:
        raise BatchError(f"{path}: no such file or folder.")
    else:
        path = assets.fetch(assets.lookup("reference_stats", str(name)), offline=offline)
    with named_by_address(name, path):
        return _read_reference(path, options, notes)


def _read_reference(path: Path, options: ImageOptions, notes: tuple[str, ...]) -> Reference:
    if file_kind(path) != "npz":
        return Reference(path, open_images(path, options), None, None, {}, notes)
    arrays = npz.members(path)
    pool_names = _POOL_OF_JAX if _POOL_OF_JAX[0] in arrays and _POOL[0] not in arrays else _POOL
    pool, spatial = (_gaussian(path, arrays, *names) for names in (pool_names, _SPATIAL))
    key = options.key if options.key in arrays else "arr_0"
    if key not in arrays and pool is None and spatial is None:
        raise BatchError(
            f"{path}: neither images ('arr_0') nor statistics ('mu' and 'sigma') in it "
            f"(found: {', '.join(sorted(arrays)) or 'nothing'}). {other_key(arrays)}".rstrip()
        )
    images = require_image_size(NpzImages(path, arrays, key), options) if key in arrays else None
    return Reference(path, images, pool, spatial, _read_provenance(path, arrays), notes)


def has_statistics(path: Path) -> bool:
    """True if the file carries stored statistics, as references do."""
    return file_kind(path) == "npz" and any(name in npz.members(path) for name in (*_POOL, *_SPATIAL))


def require_same_protocol(reference: Reference, protocol: dict[str, Any]) -> None:
    """Refuse stored statistics of another protocol than this record's. Raises StatisticsError."""
    stored = reference.provenance.get("protocol", {})
    if stored and stored.get("fingerprint") != protocol["fingerprint"]:
        raise StatisticsError(
            f"{reference.path} holds statistics of protocol {stored.get('name')} (fingerprint "
            f"{stored.get('fingerprint')}), and this run uses protocol {protocol['name']} (fingerprint "
            f"{protocol['fingerprint']}): the weights or the resize differ. Make the reference again with "
            "`dit-eval ref make`."
        )


def write_reference(out: Path, images: Images, stats: FeatureStats, provenance: dict[str, Any]) -> None:
    """Write statistics, images, their labels where there are any, and provenance. Raises BatchError."""
    if out.suffix != ".npz":
        raise UsageError(f"{out}: a reference is an .npz file; name it {out.with_suffix('.npz').name}.")
    spatial = stats.spatial
    labels = images.labels()
    npz.write_npz(
        out,
        {
            **statistics_arrays(stats.pool, spatial if len(spatial.mean) else None),
            "arr_0": npz.Rows((len(images), *images.size, 3), np.uint8, images.blocks(256)),
            **({} if labels is None else {"arr_1": labels}),
            _PROVENANCE: np.array(json.dumps(provenance, sort_keys=True)),
        },
    )


def statistics_arrays(pool: Gaussian, spatial: Gaussian | None) -> dict[str, np.ndarray]:
    """Statistics as the arrays of a reference; spatial: None for a network without spatial features."""
    arrays = {}
    for gaussian, (mean, covariance) in ((pool, _POOL), (spatial, _SPATIAL)):
        if gaussian is not None:
            arrays |= {mean: gaussian.mean, covariance: gaussian.covariance}
    return arrays


def _gaussian(path: Path, arrays: dict[str, npz.Member], mean: str, covariance: str) -> Gaussian | None:
    present = [name for name in (mean, covariance) if name in arrays]
    if not present:
        return None
    if len(present) == 1:
        missing = covariance if present == [mean] else mean
        raise StatisticsError(f"{path}: has {present[0]!r} but no {missing!r}; a reference needs both.")
    values = [arrays[name].read() for name in (mean, covariance)]
    for name, value in zip((mean, covariance), values, strict=True):
        if value.dtype.kind != "f":
            raise StatisticsError(f"{path}: {name!r} is {value.dtype}; expected floating-point numbers.")
    try:
        return Gaussian(*(value.astype(np.float64) for value in values))
    except StatisticsError as error:
        raise StatisticsError(f"{path}: {mean!r} and {covariance!r}: {error}") from None


def _read_provenance(path: Path, arrays: dict[str, npz.Member]) -> dict[str, Any]:
    if _PROVENANCE not in arrays:
        return {}
    try:
        provenance = parse_json(str(arrays[_PROVENANCE].read()))
        n = provenance.get("n", 2)
        if type(n) is not int or n < 2:
            raise ValueError
        if "protocol" in provenance:
            provenance["protocol"] = upgraded_protocol(provenance["protocol"])
            if not all(isinstance(provenance["protocol"][key], str) for key in ("name", "fingerprint")):
                raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError):
        raise BatchError(
            f"{path}: its provenance is not the JSON object that `dit-eval ref make` writes. Make it again."
        ) from None
    return provenance
