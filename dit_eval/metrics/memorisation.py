"""Does a model draw its training images again?"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

PERCENTILE = 1.0  # of the distances within the data: as near as only its nearest twins are


def share_of_copies(samples: np.ndarray, training: np.ndarray) -> float:
    """Share of samples (M, D) that lie nearer to a training image than training images (N, D) do themselves.

    Nearer means a Euclidean distance to the nearest training image below the first percentile of the
    distances of each training image to its nearest other. Both arrays are of pixels, in the same units; a
    distance matrix (M + N, N) is held in memory. Returns 0 … 1.
    """
    within = cdist(training, training)
    np.fill_diagonal(within, np.inf)
    threshold = np.percentile(within.min(axis=1), PERCENTILE)
    return float((cdist(samples, training).min(axis=1) < threshold).mean())
