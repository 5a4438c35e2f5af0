"""The table of metrics: one function each, from what was kept of samples and reference to a number.

To add a metric, write a function of `MetricInputs` that returns a `Measurement` or raises `MetricMissing`,
enter it in `METRIC_FUNCTIONS`, and name it in `results/metric_names.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.evaluation.feature_stats import DiskRows, FeatureStats
from dit_eval.evaluation.references import Reference
from dit_eval.metrics.by_class import inside_by_class
from dit_eval.metrics.fid_infinity import extrapolated_distance, subset_sizes
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.inception_score import score_influence
from dit_eval.metrics.intervals import Interval, interval, proportion_interval, standard_error
from dit_eval.metrics.precision_recall import PrecisionRecall, precision_recall

_FLOAT16 = "the same, in float16 as on a GPU"


class MetricMissing(Exception):
    """A metric that cannot be computed from these inputs; the message is the reason."""


@dataclass(frozen=True)
class Measurement:
    """The value of a metric.

    influence: one entry per image (see `metrics.intervals`), None for a metric without an interval; by_class:
    how many images of each class lie inside the other set's manifold, where labels are known; share_of: for
    a share of images, how many they are; se: the standard error where it is not that of the influences.
    """

    value: float
    measured_against: str
    influence: np.ndarray | None = None
    by_class: dict[str, list[int]] | None = None
    share_of: int | None = None
    se: float | None = None

    def interval(self) -> Interval | None:
        """The 95 % interval, None for a metric without one."""
        if self.influence is None:
            return None
        se = standard_error(self.influence.astype(np.float32)) if self.se is None else self.se
        if self.share_of is None:
            return interval(self.value, se)
        return proportion_interval(self.value, se, self.share_of)


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """What was kept of both sides, and intermediate results that several metrics share.

    reference_stats: of the reference's images, None if it holds stored statistics only; sample_labels,
    reference_labels: (N,) integers, None where they are unknown; k: the neighbour that sets the radii of
    precision and recall; device: where the metrics are computed.
    """

    samples: FeatureStats
    reference: Reference
    reference_stats: FeatureStats | None
    sample_labels: np.ndarray | None
    reference_labels: np.ndarray | None
    k: int
    device: str

    @cached_property
    def fid(self) -> Measurement:
        """FID with its influences, which FID∞ needs too."""
        return self.frechet("pool", self.samples.features)

    @cached_property
    def exact(self) -> PrecisionRecall:
        """Precision and recall by float32 distances."""
        return self._precision_recall(float16=False)

    @cached_property
    def float16(self) -> PrecisionRecall:
        """Precision and recall by ADM's float16 distances on a GPU."""
        return self._precision_recall(float16=True)

    def reference_gaussian(self, kind: Literal["pool", "spatial"]) -> tuple[Gaussian, str]:
        """Statistics of the reference, the stored ones if there are any, and a description of them."""
        stored: Gaussian | None = getattr(self.reference, kind)
        if stored is not None:
            n = self.reference.provenance.get("n")
            return stored, f"stored statistics {f'of {n:,} images' if n else '(n not recorded in the file)'}"
        if self.reference_stats is None:
            raise MetricMissing("the reference has neither these statistics nor images")
        return getattr(
            self.reference_stats, kind
        ), f"statistics of {self.reference_stats.n:,} reference images"

    def frechet(self, kind: Literal["pool", "spatial"], features: np.ndarray | DiskRows) -> Measurement:
        """The Fréchet distance of the pool (FID) or the spatial (sFID) features."""
        samples, (reference, description) = getattr(self.samples, kind), self.reference_gaussian(kind)
        try:
            value = frechet_distance(samples, reference, self.device)
        except StatisticsError as error:
            raise StatisticsError(f"{self.reference.path}: {error}") from None
        influence = frechet_influence(features, samples, reference, self.device)
        return Measurement(value, description, influence.astype(np.float32))

    def _precision_recall(self, *, float16: bool) -> PrecisionRecall:
        if self.reference_stats is None:
            raise MetricMissing("the reference has statistics only; it takes reference images")
        sets = self.reference_stats.features, self.samples.features
        return precision_recall(*sets, k=self.k, device=self.device, float16=float16)


def _fid_infinity(inputs: MetricInputs) -> Measurement:
    features, influence = inputs.samples.features, inputs.fid.influence
    assert influence is not None
    try:
        sizes = subset_sizes(*features.shape)
    except StatisticsError as error:
        raise MetricMissing(str(error)) from None
    reference = inputs.reference_gaussian("pool")[0]
    value, influence = extrapolated_distance(features, reference, influence, inputs.device)
    return Measurement(value, f"the same, {len(sizes)} subsets of {sizes[0]:,} and more", influence)


def _inception_score(inputs: MetricInputs) -> Measurement:
    score = inputs.samples.score
    influence = score_influence(inputs.samples.probabilities, score.chunk, inputs.device)
    return Measurement(score.in_file_order(), f"itself, chunks of {score.chunk:,} in order", influence)


def _inception_score_order_free(inputs: MetricInputs) -> Measurement:
    return Measurement(inputs.samples.score.order_free(), "itself, all images as one chunk")


def _precision(inputs: MetricInputs) -> Measurement:
    exact, labels = inputs.exact, inputs.sample_labels
    by_class = None if labels is None else inside_by_class(exact.samples_inside, labels)
    influence, n = exact.precision_influence(), len(exact.samples_inside)
    return Measurement(exact.precision, _exact(exact), influence, by_class, share_of=n)


def _recall(inputs: MetricInputs) -> Measurement:
    exact, labels = inputs.exact, inputs.reference_labels
    by_class = None if labels is None else inside_by_class(exact.reference_inside, labels)
    influence, n = exact.recall_influence(), len(exact.reference_inside)
    return Measurement(exact.recall, _exact(exact), influence, by_class, share_of=n, se=exact.recall_error())


def _exact(exact: PrecisionRecall) -> str:
    return f"{len(exact.reference_inside):,} reference images, exact"


METRIC_FUNCTIONS: dict[str, Callable[[MetricInputs], Measurement]] = {
    "fid": lambda inputs: inputs.fid,
    "fid_infinity": _fid_infinity,
    "sfid": lambda inputs: inputs.frechet("spatial", inputs.samples.spatial_features),
    "inception_score": _inception_score,
    "inception_score_order_free": _inception_score_order_free,
    "precision": _precision,
    "precision_float16": lambda inputs: Measurement(inputs.float16.precision, _FLOAT16),
    "recall": _recall,
    "recall_float16": lambda inputs: Measurement(inputs.float16.recall, _FLOAT16),
}
OPTIONAL = frozenset({"fid_infinity"})  # computed only when asked for
DEFAULT = tuple(name for name in METRIC_FUNCTIONS if name not in OPTIONAL)


def compute_metrics(
    inputs: MetricInputs, names: Iterable[str]
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """The named metrics, and the reason for each one that these inputs do not allow.

    Raises StatisticsError for statistics from which no number can be computed.
    """
    measurements, missing = {}, {}
    for name in names:
        try:
            measurements[name] = METRIC_FUNCTIONS[name](inputs)
        except MetricMissing as reason:
            missing[name] = str(reason)
    return measurements, missing
