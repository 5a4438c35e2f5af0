"""Checks of the evaluation: inputs, features, moments, distances and the five numbers.

Tolerances are those of tests/golden/README.md, which says where they come from.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dit_eval.diagnostics.certificate import CertifiedNumber
from dit_eval.diagnostics.recorded import dit_weights, images, inception_weights
from dit_eval.diagnostics.recorded.comparison import (
    ABSOLUTE,
    ELEMENTWISE,
    L2,
    RELATIVE,
    SHARE_OFF,
    array,
    digest,
    scalar,
)
from dit_eval.diagnostics.recorded.numbers import arrays, expected
from dit_eval.diagnostics.recorded.setup import SIZES, Setup
from dit_eval.errors import StatisticsError
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io.npz import write_npz
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore
from dit_eval.metrics.precision_recall import precision_recall, squared_radii
from dit_eval.results.metric_names import METRICS

K = PROTOCOLS["adm"].k
_ROUNDING = 1e-9  # of a share


def inputs(setup: Setup) -> list[CertifiedNumber]:
    """The inputs are the bytes on which the original programs ran."""
    recorded = expected()["sha256"]
    weights = {name: dit_weights.build(config) for name, config in dit_weights.CONFIGS.items()}
    return [
        digest(
            "images",
            [recorded["images"][f"reference 8 {size}"] for size in SIZES],
            [_sha256(setup.images[size]) for size in SIZES],
        ),
        digest(
            "Inception weights",
            [recorded["inception_weights"]],
            [inception_weights.digest(setup.inception_weights)],
        ),
        digest(
            "DiT weights",
            [recorded["dit_weights"][name] for name in weights],
            [inception_weights.digest(value) for value in weights.values()],
        ),
        digest(
            "frozen features",
            [
                expected()["evaluator_on_features"][case]["sha256"][name]
                for case, values in setup.frozen_features.items()
                for name in values
            ],
            [_sha256(value) for values in setup.frozen_features.values() for value in values.values()],
        ),
    ]


def inception_features(setup: Setup) -> list[CertifiedNumber]:
    """Features of the evaluator's own TensorFlow graph."""
    extractor = FeatureExtractor(PROTOCOLS["adm"], setup.inception, setup.device)
    recorded, numbers = arrays("tensorflow_features"), []
    for size in SIZES:
        found = extractor(setup.images[size])
        softmax = recorded[f"softmax_{size}"]
        numbers += [
            array(f"pool {size}", recorded[f"pool_{size}"], found.pool, 2e-5, measure=L2),
            array(f"spatial {size}", recorded[f"spatial_{size}"], found.spatial, 2e-5, measure=L2),
            array(f"softmax {size}", softmax, found.probabilities, 1e-4, measure=ABSOLUTE),
        ]
    return numbers


def five_numbers(setup: Setup, *, n: int, rtol: float) -> list[CertifiedNumber]:
    """What the evaluator's `main` printed for n + n images of 64 pixels; precision and recall in float64."""
    files = {}
    for name in ("samples", "reference"):
        files[name] = setup.folder / f"{name}.npz"
        write_npz(files[name], {"arr_0": images.build(name, n, 64)})
    try:
        result = evaluate(
            files["samples"],
            files["reference"],
            protocol="adm",
            inception=setup.inception,
            device=str(setup.device),
            batch_size=setup.batch_size,
            cache=False,
            progress=setup.progress,
        )
    except StatisticsError:  # features that are not finite
        result = None
    found = result.metrics if result else {}
    recorded = expected()["evaluator_on_images"][str(n)]
    printed, shares = recorded["adm_evaluator"], recorded["precision_recall"]
    return [
        *(
            scalar(name, printed[name], found.get(name), rtol, measure=RELATIVE)
            for name in ("fid", "sfid", "inception_score")
        ),
        *(
            _share(name + suffix, shares[kind][name], found.get(name + suffix), n)
            for name in ("precision", "recall")
            for suffix, kind in (("", "f64"), ("_float16", "f16_f32acc"))
        ),
    ]


def moments(setup: Setup) -> list[CertifiedNumber]:
    """Mean and covariance of features whose sums float64 holds exactly."""
    rows = setup.frozen_features["rank_deficient"]["samples_pool"]
    exact, found = _exact_gaussian(rows), _gaussian(rows)
    return [
        array("mean", exact.mean, found.mean, 1e-12, measure=L2),
        array("covariance", exact.covariance, found.covariance, 1e-12, measure=L2),
    ]


def metrics(setup: Setup) -> list[CertifiedNumber]:
    """The metrics of frozen features in exact arithmetic."""
    case = setup.frozen_features["rank_deficient"]
    exact = expected()["evaluator_on_features"]["rank_deficient"]["exact_float64"]
    found = {
        name: frechet_distance(_gaussian(case[f"samples_{kind}"]), _gaussian(case[f"ref_{kind}"]))
        for name, kind in (("fid", "pool"), ("sfid", "spatial"))
    }
    score = _inception_score(case["samples_pool"], setup.inception_weights["fc.weight"])
    return [
        *(scalar(name, exact[name], value, 1e-10, measure=RELATIVE) for name, value in found.items()),
        scalar("inception_score", exact["inception_score"], score, 2e-6, measure=RELATIVE),
        *distances(setup, case="rank_deficient"),
    ]


def distances(setup: Setup, *, case: str) -> list[CertifiedNumber]:
    """Precision, recall and squared radii of frozen features, exact and in the model of a GPU's float16."""
    features, recorded = setup.frozen_features[case], expected()["evaluator_on_features"][case]
    models = (("", False, "f64"), ("_float16", True, "f16_f32acc"))
    sides = ("samples", "ref")
    shares, radii = {}, []
    for suffix, float16, kind in models:
        options = {"k": K, "device": str(setup.device), "float16": float16}
        samples, reference = (features[f"{side}_pool"] for side in sides)
        found = precision_recall(reference, samples, **options)
        for name, value, n in (
            ("precision", found.precision, len(samples)),
            ("recall", found.recall, len(reference)),
        ):
            shares[name + suffix] = _share(name + suffix, recorded["precision_recall"][kind][name], value, n)
        # In float16, up to a hundredth may be off by one rounding step, which is larger than 2e-5
        measure, tolerance = (SHARE_OFF, 0.01) if float16 else (ELEMENTWISE, 2e-5)
        for side in sides:
            expected_radii = arrays("knn_radii")[f"{case}_{side}_{kind}"]
            found_radii = squared_radii(features[f"{side}_pool"], **options)
            name = f"{side}_radii{suffix}"
            radii.append(array(name, expected_radii, found_radii, tolerance, measure=measure))
    return [*(shares[name] for name in METRICS if name in shares), *radii]


def _share(name: str, recorded: float, found: float | None, n: int) -> CertifiedNumber:
    """Precision or recall of n images, which may be off by one: a distance may equal a radius."""
    return scalar(name, recorded, found, 1 / n + _ROUNDING, measure=ABSOLUTE)


def _gaussian(rows: np.ndarray) -> Gaussian:
    found = Moments(rows.shape[1])
    found.update(rows)
    return found.gaussian()


def _exact_gaussian(rows: np.ndarray) -> Gaussian:
    """Moments of integers divided by 2¹⁵, exact up to the last rounding: no sum reaches 2⁵³."""
    integers, n = rows.astype(np.float64) * 2**15, len(rows)
    total = integers.sum(axis=0)
    covariance = (n * (integers.T @ integers) - np.outer(total, total)) / (n * (n - 1))
    return Gaussian(total / n / 2**15, covariance / 2**30)


def _inception_score(features: np.ndarray, classifier: np.ndarray) -> float:
    logits = features @ classifier.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    score = InceptionScore(PROTOCOLS["adm"].inception_score_chunk)
    score.update(exponentials / exponentials.sum(axis=1, keepdims=True), 0)
    return score.in_file_order()


def _sha256(values: np.ndarray) -> str:
    little_endian = values if values.dtype == np.uint8 else values.astype("<f4")
    return hashlib.sha256(little_endian.tobytes()).hexdigest()
