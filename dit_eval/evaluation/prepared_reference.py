"""A reference made ready for several sets of samples: features, factors and radii are computed once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import UsageError
from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction, image_record
from dit_eval.evaluation.references import Reference, require_same_protocol
from dit_eval.features.protocols import protocol_named
from dit_eval.io.addresses import named_by_address
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.precision_recall import Manifold, require_points

Kind = Literal["pool", "spatial"]


class PreparedReference:
    """A reference and, on rank 0, the features of its images.

    name: as the user gave it; stats: None on other ranks and for a reference without images; labels: (N,)
    integers, None where they are unknown.
    """

    def __init__(
        self,
        name: str | Path,
        reference: Reference,
        extraction: FeatureExtraction,
        progress: ExtractionProgress | None = None,
        *,
        images: bool = True,
    ) -> None:
        """Every rank makes the call. images: False leaves out the features of the images.

        Raises StatisticsError for statistics of another protocol.
        """
        self.name, self.reference = name, reference
        self.stats, self.labels, self._record = None, None, {}
        with named_by_address(name, reference.path):
            require_same_protocol(reference, extraction.protocol_record())
        if reference.images is not None and images:
            require_points("reference", len(reference.images), extraction.protocol.k)
            self.labels = reference.images.labels()
            self.stats, self._record = extraction.extract(reference.images, "reference", progress)
        elif reference.images is not None and extraction.rank.index == 0:
            digest = reference.provenance.get("digest") or reference.images.digest()
            self._record = image_record(reference.images, digest)
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


def choose_protocol(requested: str | None, references: Iterable[tuple[str, Reference]]) -> str | None:
    """The requested protocol, else that which the references name, None if they name none.

    Raises UsageError before a network is loaded: for references of several protocols, or of another one than
    that which is requested.
    """
    named = {reference.protocol: name for name, reference in references if reference.protocol}
    if len(named) > 1:
        listed = ", ".join(f"{name} of {protocol}" for protocol, name in named.items())
        raise UsageError(
            f"the references are of several protocols ({listed}); evaluate against them one at a time."
        )
    own = next(iter(named), None)
    if requested and own and protocol_named(requested).name != own:
        raise UsageError(
            f"{named[own]} holds statistics of protocol {own}, and --protocol is {requested}. Leave out "
            f"--protocol to evaluate with {own}, or make a reference of images with `dit-eval ref make "
            f"IMAGES --protocol {requested} --out REF.npz`."
        )
    return requested or own
