"""The recalls of random subsets of the samples, from which the standard error of recall is estimated.

Neither distances nor neighbours are computed again: whether a sample covers a reference image within a subset
follows from how many of the sample's nearer neighbours are in that subset. This is decided for 64 subsets at
once, by one integer for each sample.
"""

from __future__ import annotations

import numpy as np

from dit_eval.metrics.blocks import random_subsets, row_blocks

SHARE = 5 / 8  # of the samples that are in a subset
_WORDS = 8  # of 64 subsets each


def subset_recalls(
    samples: np.ndarray,
    neighbours: np.ndarray,
    neighbour_distances: np.ndarray,
    balls: np.ndarray,
    ball_distances: np.ndarray,
    k: int,
) -> np.ndarray:
    """Recalls of random subsets of the samples, chosen by the features and chosen by index: (2, R).

    samples: features (M, D), which only order the samples; neighbours, neighbour_distances: indices of the
    n nearest samples of each sample, itself included, ascending, and their squared distances, (M, n);
    balls, ball_distances: indices of the samples that may cover a reference image, and their squared
    distances, (N, B). A reference image beyond a sample's n neighbours does not count as covered by it.
    """
    members = random_subsets(len(samples), _WORDS)
    members_by_features = np.empty_like(members)
    members_by_features[:, _order(samples)] = members
    nearer = np.concatenate(
        [
            (neighbour_distances[balls[rows]] < ball_distances[rows, :, None]).sum(axis=2)
            for rows in row_blocks(len(balls))
        ]
    )
    return np.array(
        [
            np.concatenate([_recalls(word, neighbours, balls, nearer, k) for word in words])
            for words in (members_by_features, members)
        ]
    )


def _order(rows: np.ndarray) -> np.ndarray:
    """An order of the rows that depends on nothing but their contents."""
    contents = np.ascontiguousarray(rows)
    return np.argsort(contents.view(f"V{contents.strides[0]}").ravel(), kind="stable")


def _recalls(
    members: np.ndarray, neighbours: np.ndarray, balls: np.ndarray, nearer: np.ndarray, k: int
) -> np.ndarray:
    """Recalls of 64 subsets.

    members: (M,) uint64, bit b for subset b; nearer: how many neighbours of each sample in `balls` are nearer
    to it than the reference image. It is covered while at most k of them are in the subset.
    """
    n = neighbours.shape[1]
    crowded = np.full(
        (n + 1, len(members)), ~np.uint64(0)
    )  # bits of subsets with more than k of the nearest…
    at_least = np.zeros((k + 1, len(members)), np.uint64)  # 1, 2, … k + 1 of the neighbours so far
    for count in range(n):
        crowded[count] = at_least[k]
        member = members[neighbours[:, count]]
        at_least[1:] |= at_least[:-1] & member
        at_least[0] |= member
    covered = members[balls] & ~crowded[nearer, balls]
    inside = np.bitwise_or.reduce(covered, axis=1)
    return np.unpackbits(inside.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
