"""The table of metrics: one function each, from what was kept of samples and reference to a number.

To add a metric, write a function of `MetricInputs` that returns a `Measurement` or raises `MetricMissing`,
enter it in `METRIC_FUNCTIONS`, and name it in `results/metric_names.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dit_eval.errors import StatisticsError, require_known
from dit_eval.evaluation.feature_stats import DiskRows, FeatureStats
from dit_eval.evaluation.prepared_reference import Kind, PreparedReference
from dit_eval.evaluation.references import Reference
from dit_eval.metrics.by_class import inside_by_class
from dit_eval.metrics.density_coverage import DensityCoverage, density_coverage
from dit_eval.metrics.fid_infinity import extrapolated_distance, subset_sizes
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.inception_score import InceptionScore, score_influence
from dit_eval.metrics.intervals import Interval, interval, proportion_interval, standard_error
from dit_eval.metrics.kid import SUBSET_SIZE, kernel_distance, subset_kernel_distances
from dit_eval.metrics.mind import DIRECTIONS, monge_distance
from dit_eval.metrics.precision_recall import PrecisionRecall, precision_recall

_NO_IMAGES = "the reference has statistics only; this metric needs reference images"
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

    def interval(self, bounds: tuple[float, float]) -> Interval | None:
        """The 95 % interval, None for a metric without one. bounds: of the values that it can take."""
        if self.influence is None:
            return None
        se = standard_error(self.influence.astype(np.float32)) if self.se is None else self.se
        if self.share_of is None:
            return interval(self.value, se, bounds)
        return proportion_interval(self.value, se, self.share_of)


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """What was kept of both sides, and intermediate results that several metrics share.

    sample_labels: (N,) integers, None where they are unknown; k: the neighbour that sets the radii of
    precision and recall; device: where the metrics are computed; intervals: whether influences are computed.
    """

    samples: FeatureStats
    reference: PreparedReference
    sample_labels: np.ndarray | None
    k: int
    device: str
    intervals: bool = True

    @cached_property
    def fid(self) -> Measurement:
        """FID with its influences, which FID∞ needs too."""
        return self.frechet("pool", self.samples.features)

    @cached_property
    def exact(self) -> PrecisionRecall:
        """Precision and recall by float32 distances."""
        return self._precision_recall(float16=False)

    @cached_property
    def reference_features(self) -> np.ndarray:
        """Pool features of the reference's images, (N, D) float32."""
        if self.reference.stats is None:
            raise MetricMissing(_NO_IMAGES)
        return self.reference.stats.features

    @cached_property
    def density_coverage(self) -> DensityCoverage:
        """The counts behind density and coverage."""
        with _statistics_missing():
            return density_coverage(self.reference_features, self.samples.features, device=self.device)

    @cached_property
    def float16(self) -> PrecisionRecall:
        """Precision and recall by ADM's float16 distances on a GPU."""
        return self._precision_recall(float16=True)

    def reference_gaussian(self, kind: Kind) -> tuple[Gaussian, str]:
        """Statistics of the reference, the stored ones if there are any, and a description of them."""
        found = self.reference.gaussian(kind)
        if found is None:
            raise MetricMissing("the reference has neither these statistics nor images")
        return found

    def frechet(self, kind: Kind, features: np.ndarray | DiskRows) -> Measurement:
        """The Fréchet distance of the pool (FID) or the spatial (sFID) features."""
        samples: Gaussian = getattr(self.samples, kind)
        if not len(samples.mean):
            raise MetricMissing(f"the network of this protocol has no {kind} features")
        reference, description = self.reference_gaussian(kind)
        try:
            value = frechet_distance(samples, reference, self.device)
        except StatisticsError as error:
            raise StatisticsError(f"{self.reference.name}: {error}") from None
        if not self.intervals:
            return Measurement(value, description)
        influence = frechet_influence(features, samples, reference, self.device)
        return Measurement(value, description, influence.astype(np.float32))

    def _precision_recall(self, *, float16: bool) -> PrecisionRecall:
        manifold = self.reference.manifold(float16)
        if manifold is None:
            raise MetricMissing(_NO_IMAGES)
        options = {"k": self.k, "device": self.device, "float16": float16, "intervals": self.intervals}
        return precision_recall(manifold, self.samples.features, **options)


def _fid_infinity(inputs: MetricInputs) -> Measurement:
    features = inputs.samples.features
    try:
        sizes = subset_sizes(*features.shape)
    except StatisticsError as error:
        raise MetricMissing(str(error)) from None
    reference = inputs.reference_gaussian("pool")[0]
    influence = np.zeros(len(features)) if inputs.fid.influence is None else inputs.fid.influence
    value, influence = extrapolated_distance(features, reference, influence, inputs.device)
    description = f"the same, {len(sizes)} subsets of {sizes[0]:,} and more"
    return Measurement(value, description, influence if inputs.intervals else None)


def _inception_score(inputs: MetricInputs) -> Measurement:
    score, influence = _score_of_classes(inputs), None
    if inputs.intervals:
        influence = score_influence(inputs.samples.probabilities, score.chunk, inputs.device)
    return Measurement(score.in_file_order(), f"itself, chunks of {score.chunk:,} in order", influence)


def _inception_score_order_free(inputs: MetricInputs) -> Measurement:
    return Measurement(_score_of_classes(inputs).order_free(), "itself, all images as one chunk")


def _score_of_classes(inputs: MetricInputs) -> InceptionScore:
    if not inputs.samples.probabilities.dimension:
        raise MetricMissing("the network of this protocol has no classes")
    return inputs.samples.score


def _precision(inputs: MetricInputs) -> Measurement:
    exact, labels = inputs.exact, inputs.sample_labels
    by_class = None if labels is None else inside_by_class(exact.samples_inside, labels)
    influence = exact.precision_influence() if inputs.intervals else None
    n = len(exact.samples_inside)
    return Measurement(exact.precision, _exact(exact), influence, by_class, share_of=n)


def _recall(inputs: MetricInputs) -> Measurement:
    exact, labels = inputs.exact, inputs.reference.labels
    by_class = None if labels is None else inside_by_class(exact.reference_inside, labels)
    influence, n = exact.recall_influence(), len(exact.reference_inside)
    return Measurement(exact.recall, _exact(exact), influence, by_class, share_of=n, se=exact.recall_error())


def _exact(exact: PrecisionRecall) -> str:
    return f"{len(exact.reference_inside):,} reference images, exact"


def _kid(inputs: MetricInputs) -> Measurement:
    with _statistics_missing():
        found = kernel_distance(inputs.reference_features, inputs.samples.features, inputs.device)
    description = f"{len(inputs.reference_features):,} reference images, all pairs"
    return Measurement(found.value, description, found.influence, se=found.standard_error)


def _kid_subsets(inputs: MetricInputs) -> Measurement:
    with _statistics_missing():
        found = subset_kernel_distances(inputs.reference_features, inputs.samples.features, inputs.device)
    description = f"{len(found)} subsets of {SUBSET_SIZE:,}, whose standard deviation is {found.std():.6f}"
    return Measurement(float(found.mean()), description)


def _density(inputs: MetricInputs) -> Measurement:
    found = inputs.density_coverage
    return Measurement(found.density, _balls(found), found.density_influence())


def _coverage(inputs: MetricInputs) -> Measurement:
    found, labels = inputs.density_coverage, inputs.reference.labels
    by_class = None if labels is None else inside_by_class(found.samples > 0, labels)
    influence, n = found.coverage_influence(), len(found.samples)
    return Measurement(
        found.coverage, _balls(found), influence, by_class, share_of=n, se=found.coverage_error()
    )


def _balls(found: DensityCoverage) -> str:
    return f"{len(found.samples):,} reference images, k = {found.k}"


def _mind(inputs: MetricInputs) -> Measurement:
    with _statistics_missing():
        found = monge_distance(inputs.reference_features, inputs.samples.features, inputs.device)
    return Measurement(
        found.value, f"{found.n:,} images on each side, {DIRECTIONS:,} directions", found.influence
    )


@contextmanager
def _statistics_missing() -> Iterator[None]:
    """Take a StatisticsError of the block for the reason why the metric is missing."""
    try:
        yield
    except StatisticsError as error:
        raise MetricMissing(str(error)) from None


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
    "kid": _kid,
    "kid_subsets": _kid_subsets,
    "density": _density,
    "coverage": _coverage,
    "mind": _mind,
}
_STATISTICS = {"fid": "pool", "fid_infinity": "pool", "sfid": "spatial"}  # what these need of the reference
_ALONE = ("inception_score", "inception_score_order_free")  # need nothing of it
POINTS = ("precision", "precision_float16", "recall", "recall_float16")  # need k + 1 samples
# Computed only when asked for, with the metrics that come along
OPTIONAL = {
    "fid_infinity": ("fid_infinity",),
    "kid": ("kid", "kid_subsets"),
    "density": ("density",),
    "coverage": ("coverage",),
    "mind": ("mind",),
}
DEFAULT = tuple(name for name in METRIC_FUNCTIONS if all(name not in names for names in OPTIONAL.values()))


def with_optional(names: Iterable[str]) -> tuple[str, ...]:
    """ADM's metrics and the named optional ones. Raises UsageError for an unknown name."""
    names = tuple(names)
    require_known("further metric", names, OPTIONAL)
    chosen = {*DEFAULT, *(found for name in names for found in OPTIONAL[name])}
    return tuple(name for name in METRIC_FUNCTIONS if name in chosen)


def needs_reference_images(names: Iterable[str], reference: Reference) -> bool:
    """True if one of these metrics needs features of the reference's images, or statistics not stored."""
    stored = {"pool": reference.pool, "spatial": reference.spatial}
    return any(stored.get(_STATISTICS.get(name, "")) is None for name in names if name not in _ALONE)


def require_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """The names of metrics, as a tuple. Raises UsageError for an unknown one."""
    names = (names,) if isinstance(names, str) else tuple(names)
    require_known("metric", names, METRIC_FUNCTIONS)
    return names


def compute_metrics(
    inputs: MetricInputs, names: Iterable[str]
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """The named metrics, and the reason for each one that these inputs do not allow.

    Raises StatisticsError for statistics from which no number can be computed.
    """
    measurements, missing = {}, {}
    for name in names:
        try:
            found = METRIC_FUNCTIONS[name](inputs)
            measurements[name] = found if inputs.intervals else replace(found, influence=None)
        except MetricMissing as reason:
            missing[name] = str(reason)
    return measurements, missing
