"""A reference made ready for several sets of samples: features, factors and radii are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import UsageError
from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction, extract, image_record
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.references import Reference, require_same_protocol
from dit_eval.features.protocols import protocol_named
from dit_eval.io.addresses import named_by_address
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.precision_recall import Manifold, require_points

Kind = Literal["pool", "spatial"]


class PreparedReference:
    """A reference and, on rank 0, the features of its images by one protocol.

    name: as the user gave it; stats: None on other ranks and for a reference without images; labels: (N,)
    integers, None where they are unknown.
    """

    def __init__(
        self,
        name: str | Path,
        reference: Reference,
        extraction: FeatureExtraction,
        stats: FeatureStats | None,
        record: dict[str, Any],
    ) -> None:
        """stats, record: as `extract` returns them; see `prepare_reference`."""
        self.name, self.reference = name, reference
        self.stats, self._record = stats, record
        self.labels = None if stats is None or reference.images is None else reference.images.labels()
        self._k, self._device = extraction.protocol.k, str(extraction.extractor.device)
        self._gaussians: dict[Kind, tuple[Gaussian, str]] = {}
        self._manifolds: dict[bool, Manifold] = {}

    def section(self) -> dict[str, Any]:
        """The reference section of a Result."""
        return {
            "path": str(self.name),
            "statistics": "stored" if self.reference.pool else "computed",
            "statistics_sha256": self.reference.statistics_digest(),
            "provenance": self.reference.provenance,
            **self._record,
        }

    def images_of_statistics(self) -> int | None:
        """The number of images behind the statistics for FID, None if it is not known."""
        if self.reference.pool is not None:
            return self.reference.provenance.get("n")
        return None if self.stats is None else self.stats.n

    def gaussian(self, kind: Kind) -> tuple[Gaussian, str] | None:
        """Its statistics, the stored ones if there are any, with a description; None if it has neither."""
        if kind not in self._gaussians:
            stored: Gaussian | None = getattr(self.reference, kind)
            if stored is not None:
                n = self.reference.provenance.get("n")
                of = f"of {n:,} images" if n else "(n not recorded in the file)"
                self._gaussians[kind] = stored, f"stored statistics {of}"
            elif self.stats is not None:
                description = f"statistics of {self.stats.n:,} reference images"
                self._gaussians[kind] = getattr(self.stats, kind), description
        return self._gaussians.get(kind)

    def manifold(self, float16: bool) -> Manifold | None:
        """The balls around its images; None if it has none."""
        if self.stats is None:
            return None
        if float16 not in self._manifolds:
            features = self.stats.features
            self._manifolds[float16] = Manifold("reference", features, self._k, self._device, float16)
        return self._manifolds[float16]


def prepare_reference(
    name: str | Path,
    reference: Reference,
    extractions: Sequence[FeatureExtraction],
    progress: ExtractionProgress | None,
    *,
    images: bool,
) -> list[PreparedReference]:
    """The reference for each protocol; its images are read once for all of them.

    images: False leaves out the features of the images. Every rank makes the call. Raises StatisticsError for
    statistics of another protocol or too few images.
    """
    for extraction in extractions:
        with named_by_address(name, reference.path):
            require_same_protocol(reference, extraction.protocol_record())
    measured: list[tuple[FeatureStats | None, dict[str, Any]]] = [(None, {}) for _ in extractions]
    if reference.images is not None and images:
        require_points("reference", len(reference.images), max(each.protocol.k for each in extractions))
        measured = extract(extractions, reference.images, "reference", progress)
    elif reference.images is not None and extractions[0].rank.index == 0:
        digest = reference.provenance.get("digest") or reference.images.digest()
        measured = [(None, image_record(reference.images, digest)) for _ in extractions]
    return [
        PreparedReference(name, reference, extraction, *found)
        for extraction, found in zip(extractions, measured, strict=True)
    ]


def pair_with_protocols(
    references: Sequence[tuple[str, Reference]], extractions: Sequence[FeatureExtraction]
) -> list[list[FeatureExtraction]]:
    """For each reference the protocols by which it is measured.

    Of several protocols, that is the one it names; else all of them or, for stored statistics, those with as
    many features. Raises UsageError for a reference or a protocol that is left over.
    """
    if len(extractions) == 1:
        return [list(extractions) for _ in references]
    pairs = [
        [extraction for extraction in extractions if extraction.protocol.name == reference.protocol]
        or [extraction for extraction in extractions if _has_features_of(reference, extraction)]
        for _, reference in references
    ]
    dimensions = ", ".join(f"{each.protocol.name} {each.extractor.dimensions[0]:,}" for each in extractions)
    for (name, _), chosen in zip(references, pairs, strict=True):
        if not chosen:
            raise UsageError(
                f"{name} holds statistics of other features than those of the protocols ({dimensions})."
            )
    for extraction in extractions:
        if not any(extraction in chosen for chosen in pairs):
            protocol = extraction.protocol.name
            raise UsageError(
                f"no reference is of protocol {protocol}. Add one that `dit-eval ref make --protocol "
                f"{protocol}` has written, or reference images without statistics."
            )
    return pairs


def _has_features_of(reference: Reference, extraction: FeatureExtraction) -> bool:
    return reference.pool is None or len(reference.pool.mean) == extraction.extractor.dimensions[0]


def choose_protocols(
    requested: Sequence[str], references: Iterable[tuple[str, Reference]]
) -> Sequence[str | None]:
    """The requested protocols, else that which the references name, None if they name none.

    Raises UsageError before a network is loaded: for references of several protocols if none is requested, or
    of another one than the only one that is.
    """
    named = {reference.protocol: name for name, reference in references if reference.protocol}
    if len(requested) == 1:
        for own, name in named.items():
            if protocol_named(requested[0]).name != own:
                raise UsageError(
                    f"{name} holds statistics of protocol {own}, and --protocol is {requested[0]}. Leave out "
                    f"--protocol to evaluate with {own}, or make a reference of images with `dit-eval ref "
                    f"make IMAGES --protocol {requested[0]} --out REF.npz`."
                )
    if requested:
        return requested
    if len(named) > 1:
        listed = ", ".join(f"{name} of {protocol}" for protocol, name in named.items())
        raise UsageError(
            f"the references are of several protocols ({listed}); name all of them with --protocol."
        )
    return [next(iter(named), None)]
