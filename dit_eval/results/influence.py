"""What the images do to each number, kept beside a result's JSON: what a paired comparison needs.

RESULT.json             the numbers and their circumstances
RESULT.influence.npz    metric → float32, and the digest of the images that they belong to; one value for each
                        image, but of recall for each reference image and part of the images
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
    """Where the influences of a result lie."""
    return result_json.with_suffix(".influence.npz")


def write_influence(result_json: Path, result: Result, influence: Mapping[str, np.ndarray]) -> None:
    """Write the influences of a result's images. Raises BatchError if the file cannot be written."""
    arrays = {_DIGEST: np.array(result.samples["digest"]), **influence}
    npz.write_npz(influence_path(result_json), arrays)


def read_influence(result_json: Path, result: Result) -> dict[str, np.ndarray]:
    """The influences beside a result's JSON by metric; empty where there is no such file.

    Raises ResultError if they are another result's, BatchError if the file is damaged.
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
