"""A share of images, class by class."""

from __future__ import annotations

import numpy as np


def inside_by_class(inside: np.ndarray, labels: np.ndarray) -> dict[str, list[int]]:
    """How many images of each class there are, and how many of them lie inside.

    inside: (N,) bool; labels: (N,) integers. Returns three lists side by side: `label`, rising, `n` and
    `inside`, so that Σ inside / Σ n is the share of all classes together.
    """
    classes, places = np.unique(labels, return_inverse=True)
    counts = (np.bincount(some, minlength=len(classes)) for some in (places, places[inside]))
    n, within = (each.tolist() for each in counts)
    return {"label": classes.tolist(), "n": n, "inside": within}
