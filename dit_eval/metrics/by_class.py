"""Precision and recall by class: how many images of each class lie inside the manifold of the other set."""

from __future__ import annotations

import numpy as np


def inside_by_class(inside: np.ndarray, labels: np.ndarray) -> dict[str, list[int]]:
    """How many images there are of each class, and how many of them lie inside.

    inside: (N,) bool; labels: (N,) integers. Returns three lists of equal length: `label`, ascending, `n` and
    `inside`, so that Σ inside / Σ n is the share over all classes.
    """
    classes, indices = np.unique(labels, return_inverse=True)
    n, n_inside = (np.bincount(i, minlength=len(classes)).tolist() for i in (indices, indices[inside]))
    return {"label": classes.tolist(), "n": n, "inside": n_inside}
