"""Rounds, comparisons and budgets of a search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dit_eval.errors import UsageError
from dit_eval.metrics.intervals import interval, normal_quantile, standard_error
from dit_eval.results.result import Result
from dit_eval.search.budget import Budget
from dit_eval.search.race import compare_with_best, count_comparisons, round_sizes
from tests.handmade import handmade

SHARED = np.random.default_rng(0).normal(size=400)


def result(value: float, own_noise: int = 0, metric: str = "fid", seconds_per_image: float = 0.0) -> Result:
    """A metric whose influences are shared ones and, for `own_noise`, as many of its own."""
    influence = 10 * SHARED
    if own_noise:
        influence = influence + np.random.default_rng(own_noise).normal(size=len(SHARED))
    metrics: dict[str, Any] = {metric: value}
    plain = handmade(n=len(SHARED), **metrics)
    ends = interval(value, standard_error(influence))
    samples = {**plain.samples, "plan": {**plain.samples["plan"], "labels": "uniform", "num": len(SHARED)}}
    if seconds_per_image:
        samples["speed"] = {"device": "cpu", "images": 10, "seconds": 10 * seconds_per_image}
    return replace(
        plain,
        samples=samples,
        intervals={metric: vars(ends)},
        influence={metric: influence.astype(np.float32)},
    )


@pytest.mark.parametrize(
    ("num", "first", "batch_size", "sizes"),
    [
        (50_000, None, 32, [3136, 6272, 12544, 25088, 50_000]),
        (1024, 128, 64, [128, 256, 512, 1024]),
        (1000, 100, 64, [128, 256, 512, 1000]),
        (100, 100, 64, [100]),
        (40, None, 64, [40]),
        (128, 1, 64, [64, 128]),
    ],
)
def test_rounds_double_in_whole_batches_up_to_the_number_of_images(num, first, batch_size, sizes):
    assert round_sizes(num, first, batch_size) == sizes


@pytest.mark.parametrize("first", [0, 101])
def test_a_first_round_of_no_or_too_many_images_is_refused(first):
    with pytest.raises(UsageError, match="expected 1 to 100"):
        round_sizes(100, first, 32)


def test_all_pairs_of_all_rounds_are_comparisons():
    assert count_comparisons(12, 5) == 5 * 12 * 11 / 2


def test_a_candidate_is_dropped_where_the_paired_difference_is_beyond_the_interval_of_all_comparisons():
    se = standard_error((result(0, 1).influence["fid"] - result(0).influence["fid"]).astype(np.float32))
    half_width = normal_quantile(66) * se
    assert se < 0.11 * standard_error(SHARED * 10)  # the shared part cancels
    results = {7: result(5 + 1.01 * half_width, 1), 8: result(5), 9: result(5 + 0.99 * half_width, 1)}
    found = compare_with_best(results, "fid", 66)
    assert (found.n, found.best, found.dropped, found.survivors) == (400, 8, (7,), (8, 9))
    assert all(comparison.paired for comparison in found.comparisons.values())


def test_of_a_score_the_highest_is_best():
    results = {0: result(100, metric="inception_score"), 1: result(200, 1, metric="inception_score")}
    found = compare_with_best(results, "inception_score", 1)
    assert (found.best, found.dropped) == (1, (0,))


def test_equal_candidates_are_never_dropped():
    found = compare_with_best({0: result(5), 1: result(5)}, "fid", 1)
    assert found.survivors == (0, 1)


def test_a_metric_that_could_not_be_computed_is_named_with_the_reason():
    without = replace(
        result(5), metrics={"fid": 5.0}, missing={"recall": "the reference has statistics only"}
    )
    with pytest.raises(UsageError, match="Recall cannot be compared: the reference has statistics only"):
        compare_with_best({0: without, 1: without}, "recall", 1)


def test_a_budget_is_a_number_of_images_or_hours():
    assert Budget.parse("200000") == Budget(images=200_000)
    assert Budget.parse("1.5h") == Budget(hours=1.5)
    assert Budget.parse(None) == Budget()


@pytest.mark.parametrize("value", ["0", "-1", "0h", "1.5", "24 days", "h", ""])
def test_any_other_budget_is_refused(value):
    with pytest.raises(UsageError, match="is neither a number of images"):
        Budget.parse(value)


def test_a_budget_of_images_counts_all_candidates():
    assert Budget(images=300).allows({0: 100, 1: 200}, {})
    assert not Budget(images=299).allows({0: 100, 1: 200}, {})


def test_a_budget_of_hours_takes_each_candidates_speed_and_the_mean_for_unknown_ones():
    results = {0: result(5, seconds_per_image=1.0), 1: result(5, seconds_per_image=3.0), 2: result(5)}
    images = {0: 3600, 1: 1200, 2: 1800}  # an hour each, at 1, 3 and 2 seconds per image
    assert Budget(hours=3.0001).allows(images, results)
    assert not Budget(hours=2.9999).allows(images, results)
    assert Budget(hours=0.1).allows(images, {})  # nothing is known before the first round
