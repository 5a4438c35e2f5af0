"""A reference made ready for several sets of samples: features, factors and radii are computed once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import UsageError
from dit_eval.evaluation.extraction import ExtractionProgress, FeatureExtraction
from dit_eval.evaluation.references import Reference, require_same_protocol
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
    ) -> None:
        """Every rank makes the call. Raises StatisticsError for statistics of another protocol."""
        require_same_protocol(reference, extraction.protocol_record())
        self.name, self.reference = name, reference
        self.stats, self.labels, self._record = None, None, {}
        if reference.images is not None:
            require_points("reference", len(reference.images), extraction.protocol.k)
            self.labels = reference.images.labels()
            self.stats, self._record = extraction.extract(reference.images, "reference", progress)
        self._k, self._device = extraction.protocol.k, str(extraction.extractor.device)
        self.gaussian, self.manifold = cache(self._gaussian), cache(self._manifold)

    def section(self) -> dict[str, Any]:
        """The reference section of a Result."""
        return {
            "path": str(self.name),
            "statistics": "stored" if self.reference.pool else "computed",
            "statistics_sha256": self.reference.statistics_digest(),
            "provenance": self.reference.provenance,
            **self._record,
        }

    def _gaussian(self, kind: Kind) -> tuple[Gaussian, str] | None:
        """Its statistics, the stored ones if there are any, with a description; None if it has neither."""
        stored: Gaussian | None = getattr(self.reference, kind)
        if stored is not None:
            n = self.reference.provenance.get("n")
            return stored, f"stored statistics {f'of {n:,} images' if n else '(n not recorded in the file)'}"
        if self.stats is None:
            return None
        return getattr(self.stats, kind), f"statistics of {self.stats.n:,} reference images"

    def _manifold(self, float16: bool) -> Manifold | None:
        """The balls around its images; None if it has none."""
        if self.stats is None:
            return None
        return Manifold("reference", self.stats.features, self._k, self._device, float16)


def require_one_protocol(references: dict[str, Reference]) -> str | None:
    """The protocol that the references name, None if they name none. Raises UsageError for several."""
    named = {reference.protocol: name for name, reference in references.items() if reference.protocol}
    if len(named) > 1:
        listed = ", ".join(f"{name} of {protocol}" for protocol, name in named.items())
        raise UsageError(
            f"the references are of several protocols ({listed}); evaluate against them one at a time."
        )
    return next(iter(named), None)
