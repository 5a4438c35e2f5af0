"""How many samples are copies of training images?"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

PERCENTILE = 1.0  # of the distances within the training images


def share_of_copies(samples: np.ndarray, training: np.ndarray) -> float:
    """Share of samples (M, D) that are closer to a training image than training images are to each other.

    A copy is a sample whose Euclidean distance to the nearest training image is below the first percentile
    of the nearest-neighbour distances within training (N, D). Both arrays hold pixels in the same units; a
    distance matrix (M + N, N) is held in memory. Returns 0 to 1.
    """
    within = cdist(training, training)
    np.fill_diagonal(within, np.inf)
    threshold = np.percentile(within.min(axis=1), PERCENTILE)
    return float((cdist(samples, training).min(axis=1) < threshold).mean())
