"""Per-image influences on each metric, stored next to a result's JSON for paired comparisons.

RESULT.json             the result
RESULT.influence.npz    metric → float32, one value per image, and the digest of these images; for recall one
                        value per reference image and sub-batch
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dit_eval.errors import ResultError
from dit_eval.io import npz
from dit_eval.results.result import Result

_DIGEST = "samples_digest"


def influence_path(result_json: Path) -> Path:
    """The path of the influences of a result."""
    return result_json.with_suffix(".influence.npz")


def write_influence(result_json: Path, result: Result, influence: Mapping[str, np.ndarray]) -> None:
    """Write the influences of a result. Raises BatchError if the file cannot be written."""
    arrays = {_DIGEST: np.array(result.samples["digest"]), **influence}
    npz.write_npz(influence_path(result_json), arrays)


def read_influence(result_json: Path, result: Result) -> dict[str, np.ndarray]:
    """The influences of a result by metric; empty if the file does not exist.

    Raises ResultError if they belong to other images, BatchError if the file is damaged.
    """
    path = influence_path(result_json)
    if not path.exists():
        return {}
    arrays = {name: member.read() for name, member in npz.members(path).items()}
    if str(arrays.pop(_DIGEST, "")) != result.samples.get("digest"):
        raise ResultError(
            f"{path} belongs to other images than {result_json}. Write both with one `dit-eval fid --json`."
        )
    return arrays
