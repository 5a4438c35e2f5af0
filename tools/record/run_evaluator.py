"""Run guided-diffusion's evaluator.py: `run_evaluator OUT.npz (features | images N | case NAME)`.

The current folder receives the frozen graph, which evaluator.py reads from there. Its only addition is the
alias `np.bool`, which numpy has removed.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dit_eval.diagnostics.recorded import features as frozen_features
from dit_eval.diagnostics.recorded import images, inception_weights
from tools.record import exact, quantities, tf_graph

SIZES = (64, 256, 512)  # of the images whose features are recorded
N = 8  # images of each size
SIDE = 64  # of the images on which the evaluator's main() runs
FLOAT16_BLOCK = 10_000


def record_features(evaluator: Any, weights: inception_weights.Weights, out: Path) -> None:
    """tensorflow_features.npz: pool, spatial and softmax of 8 images of every size."""
    arrays: dict[str, np.ndarray] = {}
    digests = {}
    network = new_evaluator(evaluator)
    for size in SIZES:
        batch = images.build("reference", N, size)
        digests[f"reference {N} {size}"] = quantities.sha256(batch)
        pool, spatial = network.compute_activations([batch])
        softmax = network.sess.run(network.softmax, {network.softmax_input: pool})
        arrays |= {f"pool_{size}": pool, f"spatial_{size}": spatial, f"softmax_{size}": softmax}
    expected = {"sha256": {"images": digests, "inception_weights": inception_weights.digest(weights)}}
    quantities.save(out, tensorflow_features=arrays, expected=expected)


def record_images(evaluator: Any, weights: inception_weights.Weights, out: Path, n: int) -> None:
    """`evaluator_on_images`: what main() prints for n + n images, and in exact arithmetic on its features."""
    digests, files = {}, {}
    for name in ("reference", "samples"):
        batch = images.build(name, n, SIDE)
        digests[f"{name} {n} {SIDE}"] = quantities.sha256(batch)
        files[name] = f"{name}.npz"
        np.savez(files[name], arr_0=batch)
    printed, activations = run_main(evaluator, files["reference"], files["samples"])
    features = {}
    for side, name in (("ref", "reference"), ("samples", "samples")):
        features[f"{side}_pool"], features[f"{side}_spatial"] = activations[files[name]]
    numbers, _ = exact.numbers(features, weights["fc.weight"])
    del numbers["precision_recall"]["f16_f32acc"]["branches"]  # one block, which is finite
    case = {"adm_evaluator": printed, **numbers}
    expected = {"evaluator_on_images": {str(n): case}, "sha256": {"images": digests}}
    quantities.save(out, expected=expected)


def run_main(evaluator: Any, reference: str, samples: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers that main() prints, and the activations of each file that it computed on the way."""
    activations = {}

    class Observed(evaluator.Evaluator):
        def read_activations(self, npz_path: str) -> Any:
            activations[npz_path] = super().read_activations(npz_path)
            return activations[npz_path]

    with (
        patch.object(evaluator, "Evaluator", Observed),
        patch.object(sys, "argv", ["evaluator.py", reference, samples]),
        redirect_stdout(io.StringIO()) as output,
    ):
        evaluator.main()
    lines = re.findall(
        r"^(Inception Score|FID|sFID|Precision|Recall): (\S+)$", output.getvalue(), re.MULTILINE
    )
    return {name.lower().replace(" ", "_"): float(number) for name, number in lines}, activations


def record_case(evaluator: Any, weights: inception_weights.Weights, out: Path, name: str) -> None:
    """`evaluator_on_features` and knn_radii.npz: what the evaluator's methods return for frozen features."""
    network = new_evaluator(evaluator)
    features = frozen_features.case(name)
    ref, samples = features["ref_pool"], features["samples_pool"]
    statistics = {key: network.compute_statistics(rows) for key, rows in features.items()}
    estimator = network.manifold_estimator  # compute_prec_recall() in its three steps, to keep the radii
    ref_radii, samples_radii = estimator.manifold_radii(ref), estimator.manifold_radii(samples)
    precision, recall = estimator.evaluate_pr(ref, ref_radii, samples, samples_radii)
    adm = {
        "fid": statistics["samples_pool"].frechet_distance(statistics["ref_pool"]),
        "sfid": statistics["samples_spatial"].frechet_distance(statistics["ref_spatial"]),
        "inception_score": json_number(network.compute_inception_score(samples)),
        "inception_score_ref": json_number(network.compute_inception_score(ref)),
        "mu_dtype": str(statistics["ref_pool"].mu.dtype),
        "sigma_dtype": str(statistics["ref_pool"].sigma.dtype),
        "precision": float(precision[0]),
        "recall": float(recall[0]),
        "branch": {
            "ref_ref": branch(network, ref, ref),
            "samples_samples_block0": branch(network, samples, samples),
            "ref_samples_block0": branch(network, ref, samples),
        },
    }
    numbers, radii = exact.numbers(features, weights["fc.weight"])
    radii |= {"ref_adm": ref_radii[:, 0], "samples_adm": samples_radii[:, 0]}
    case = {
        "n_ref": len(ref),
        "n_samples": len(samples),
        "sha256": {key: quantities.sha256(rows.astype("<f4")) for key, rows in features.items()},
        "adm_evaluator": adm,
        **numbers,
    }
    quantities.save(
        out,
        expected={"evaluator_on_features": {name: case}},
        knn_radii={f"{name}_{key}": values for key, values in radii.items()},
    )


def branch(network: Any, u: np.ndarray, v: np.ndarray) -> str:
    """In which precision the distances of the first block are computed: the predicate of its tf.cond."""
    (finite,) = (op for op in network.sess.graph.get_operations() if op.type == "All")
    block = network.manifold_estimator.distance_block
    rows = {block._features_batch1: u[:FLOAT16_BLOCK], block._features_batch2: v[:FLOAT16_BLOCK]}
    return "fp16" if network.sess.run(finite.outputs[0], rows) else "fp32"


def json_number(value: float) -> float | str:
    """JSON has no NaN."""
    return "nan" if math.isnan(value) else value


def new_evaluator(evaluator: Any) -> Any:
    """The program's Evaluator with a session of its own."""
    return evaluator.Evaluator(evaluator.tf.Session())


def main(out: Path, what: str, which: str = "") -> None:
    """Write the quantities of one run to `out`."""
    np.__dict__["bool"] = bool
    weights = inception_weights.build()
    evaluator = importlib.import_module("evaluator")
    Path(evaluator.INCEPTION_V3_PATH).write_bytes(tf_graph.build(weights))
    if what == "features":
        record_features(evaluator, weights, out)
    elif what == "images":
        record_images(evaluator, weights, out, int(which))
    else:
        record_case(evaluator, weights, out, which)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
