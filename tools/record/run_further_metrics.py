"""Run torch-fidelity's KID and MIND and prdc's density and coverage: `run_further_metrics OUT.json`.

Not a part of `make record`. Run it where prdc is installed and a checkout of torch-fidelity at the commit
named in tests/golden/README.md comes first on the path:

    PYTHONPATH=CHECKOUT:. python -m tools.record.run_further_metrics tests/golden/further_metrics.json
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prdc import compute_prdc  # pyright: ignore[reportMissingImports]
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_mind import mind_features_to_metric  # pyright: ignore[reportMissingImports]

from dit_eval.diagnostics.recorded.features import features
from tools.record.quantities import sha256

DIMENSION = 256
SIZES = {"ref": 1200, "samples": 1500}
K = 5


def kid(samples: np.ndarray, reference: np.ndarray, **options: int) -> dict[str, Any]:
    """Mean and standard deviation over subsets, as the program runs and on float64 features."""
    found = {}
    for dtype in ("float32", "float64"):
        sides = (torch.from_numpy(rows.astype(dtype)) for rows in (samples, reference))
        mean, std = kid_features_to_metric(*sides, verbose=False, **options).values()
        found[dtype] = {"mean": mean, "std": std}
    return found


def mind(samples: np.ndarray, reference: np.ndarray) -> float:
    """MIND on a CPU."""
    sides = (torch.from_numpy(rows) for rows in (samples, reference))
    (value,) = mind_features_to_metric(*sides, cuda=False, verbose=False).values()
    return value


def main(out: Path) -> None:
    """Write all numbers to `out`."""
    torch.set_num_threads(1)
    reference, samples = (features(n, DIMENSION, which) for which, n in SIZES.items())
    as_many = samples[: len(reference)]
    balls = compute_prdc(reference, samples, K)
    document = {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scikit-learn", "prdc")},
        },
        "inputs": {
            "dimension": DIMENSION,
            "n": SIZES,
            "sha256": {"ref": sha256(reference.astype("<f4")), "samples": sha256(samples.astype("<f4"))},
        },
        "kid_subsets": kid(samples, reference),
        # One subset of all images on each side, whose order does not matter
        "kid_all_pairs_of_1200": kid(as_many, reference, kid_subsets=1, kid_subset_size=len(reference)),
        "mind": {
            "1500 samples": mind(samples, reference),
            "1200 samples": mind(as_many, reference),
            "1000 samples": mind(samples[:1000], reference),
        },
        "prdc": {"k": K, "density": float(balls["density"]), "coverage": float(balls["coverage"])},
    }
    out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
