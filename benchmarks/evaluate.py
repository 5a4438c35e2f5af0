"""The evaluation against its peers: features, the Fréchet step, precision and recall.

    python benchmarks/evaluate.py            # minutes
    python benchmarks/evaluate.py --long     # precision and recall at 10,000 × 50,000 too
    python benchmarks/evaluate.py --device cuda

Every contestant lives in a process of its own, as its users run it, and they take turns round after round,
so that a slow minute of the machine slows them alike. A ratio is the median of the rounds' ratios, above 1
where dit-eval is faster. Outputs are compared before anything is timed. The floor is the work over the rate
of large matrix products in float32, without TF32, measured in the same run; its share is floor over time.
Every round ends with its output in host memory, so that a GPU has finished.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from common import keep, matmul_rate

from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io import assets
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.precision_recall import precision_recall
from dit_eval.runtime.malloc import keep_freed_memory_until_exit

Work = Callable[[], np.ndarray]  # one round of the task; what it returns is compared
Contestant = Callable[..., Work]  # prepares in its own process

DIMENSION = 2048


def images(n: int) -> np.ndarray:
    """Photograph-sized noise; the speed does not depend on what is in the pictures."""
    return np.random.default_rng(0).integers(0, 256, (n, 256, 256, 3), dtype=np.uint8)


# Features: n images → pool features


def ours_features(n: int, weights: Path, device: str) -> Work:
    extractor, batch = FeatureExtractor(PROTOCOLS["adm"], weights, torch.device(device)), images(n)
    keep_freed_memory_until_exit()  # as `FeatureExtractor.stream` does, from its first batch to its last
    return lambda: extractor(batch).pool


def torch_fidelity_features(n: int, weights: Path, device: str) -> Work:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    outputs = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("n", outputs, feature_extractor_weights_path=str(weights)).to(
        device
    )
    batch = torch.from_numpy(images(n)).permute(0, 3, 1, 2).contiguous()
    return lambda: network(batch.to(device))[0].cpu().numpy()


def torchmetrics_features(n: int, weights: Path, device: str) -> Work:
    from torchmetrics.image.fid import NoTrainInceptionV3  # pyright: ignore[reportMissingImports]

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights), antialias=False)
    network.to(device)
    batch = torch.from_numpy(images(n)).permute(0, 3, 1, 2).contiguous()
    return lambda: network(batch.to(device)).cpu().numpy()


def pytorch_fid_features(n: int, weights: Path, device: str) -> Work:
    from pytorch_fid import inception  # pyright: ignore[reportMissingImports]

    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: _state(weights)):
        network = inception.InceptionV3([3], use_fid_inception=True).eval().to(device)
    batch = torch.from_numpy(images(n)).permute(0, 3, 1, 2).float() / 255
    return lambda: network(batch.to(device))[0].flatten(1).cpu().numpy()


def clean_fid_features(n: int, weights: Path, device: str) -> Work:
    """Its resize, one image after another, and its network in the PyTorch form."""
    from cleanfid import inception_pytorch
    from cleanfid.resize import build_resizer

    with patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: _state(weights)):
        network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval().to(device)
    resize, batch = build_resizer("clean"), images(n)

    def work() -> np.ndarray:
        resized = np.stack([resize(image) for image in batch]).transpose(0, 3, 1, 2)
        return network(torch.from_numpy(resized).to(device) / 255)[0].flatten(1).cpu().numpy()

    return work


def _state(weights: Path) -> dict[str, torch.Tensor]:
    return torch.load(weights, map_location="cpu", weights_only=True)


FEATURES: dict[str, Contestant] = {
    "dit-eval": ours_features,
    "torch-fidelity": torch_fidelity_features,
    "torchmetrics": torchmetrics_features,
    "pytorch-fid": pytorch_fid_features,
    "clean-fid": clean_fid_features,
}
SAME_RESIZE = ("dit-eval", "torch-fidelity", "torchmetrics")  # as TensorFlow 1; the others have their own


# The Fréchet step: two Gaussians of full rank → the distance


def gaussians() -> list[Gaussian]:
    rng = np.random.default_rng(1)
    spectrum = np.logspace(-4, 0, DIMENSION)
    sides = []
    for _ in range(2):
        points = rng.standard_normal((3 * DIMENSION, DIMENSION)) * spectrum
        sides.append(Gaussian(rng.random(DIMENSION), np.cov(points, rowvar=False)))
    return sides


def ours_frechet(device: str) -> Work:
    a, b = gaussians()
    return lambda: np.array([frechet_distance(a, b, device)])


def sqrtm_frechet(device: str) -> Work:
    """As ADM's program, pytorch-fid and clean-fid: scipy's root of the covariances' product, on the CPU."""
    from scipy.linalg import sqrtm

    a, b = gaussians()

    def work() -> np.ndarray:
        root = np.real(sqrtm(a.covariance @ b.covariance))
        shift = a.mean - b.mean
        return np.array([shift @ shift + np.trace(a.covariance + b.covariance - 2 * root)])

    return work


def torchmetrics_frechet(device: str) -> Work:
    from torchmetrics.image.fid import _compute_fid  # pyright: ignore[reportMissingImports]

    sides = [torch.from_numpy(x).to(device) for g in gaussians() for x in (g.mean, g.covariance)]
    return lambda: _compute_fid(*sides).cpu().numpy()[None]


FRECHET: dict[str, Contestant] = {
    "dit-eval": ours_frechet,
    "scipy sqrtm": sqrtm_frechet,
    "torchmetrics": torchmetrics_frechet,
}


# Precision and recall: two sets of features → the two numbers


def features(m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    load = rng.standard_normal((40, DIMENSION)).astype(np.float32)
    sides = []
    for rows, scale in ((m, 1.0), (n, 0.9)):
        latent = scale * rng.standard_normal((rows, 40), dtype=np.float32)
        sides.append(latent @ load + rng.standard_normal((rows, DIMENSION), dtype=np.float32))
    return sides[0], sides[1]


def ours_precision_recall(m: int, n: int, device: str) -> Work:
    reference, samples = features(m, n)

    def work() -> np.ndarray:
        found = precision_recall(reference, samples, device=device)
        return np.array([found.precision, found.recall])

    return work


def numpy_precision_recall(m: int, n: int, device: str) -> Work:
    """ADM's method in NumPy, on the CPU: blocks of 10,000 × 10,000, each pair of a set with itself twice."""
    reference, samples = features(m, n)
    block = 10_000

    def distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.maximum((u * u).sum(1)[:, None] - 2 * (u @ v.T) + (v * v).sum(1)[None], 0)

    def radii(x: np.ndarray) -> np.ndarray:
        out = []
        for i in range(0, len(x), block):
            row = [distances(x[i : i + block], x[j : j + block]) for j in range(0, len(x), block)]
            out.append(np.partition(np.concatenate(row, axis=1), 3, axis=1)[:, 3])
        return np.concatenate(out)

    def work() -> np.ndarray:
        around_reference, around_samples = radii(reference), radii(samples)
        precise, recalled = np.zeros(n, bool), np.zeros(m, bool)
        for i in range(0, m, block):
            for j in range(0, n, block):
                d = distances(reference[i : i + block], samples[j : j + block])
                precise[j : j + block] |= (d <= around_reference[i : i + block, None]).any(0)
                recalled[i : i + block] |= (d <= around_samples[None, j : j + block]).any(1)
        return np.array([precise.mean(), recalled.mean()])

    return work


def torch_fidelity_precision_recall(m: int, n: int, device: str) -> Work:
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    reference, samples = (torch.from_numpy(side).to(device) for side in features(m, n))
    return lambda: np.array(calculate_precision_recall_part(samples, reference))


PRECISION_RECALL: dict[str, Contestant] = {
    "dit-eval": ours_precision_recall,
    "ADM's method in NumPy": numpy_precision_recall,
    "torch-fidelity": torch_fidelity_precision_recall,
}


# The race


def serve(prepare: Contestant, arguments: tuple, pipe: Connection) -> None:
    """In a contestant's own process: prepare, then run a round whenever asked, in float32 without TF32."""
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    work = prepare(*arguments)
    while pipe.recv():
        began = time.perf_counter()
        output = work()
        pipe.send((output, time.perf_counter() - began))


def race(
    contestants: dict[str, Contestant], arguments: tuple, rounds: int, alike: tuple[str, ...] | None = None
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; a round that is not counted goes first, if there are several.

    The outputs of those in `alike` (all by default) must agree to 1e-3.
    """
    context, pipes = mp.get_context("spawn"), {}
    for name, prepare in contestants.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(prepare, arguments, theirs), daemon=True).start()
    outputs: dict[str, np.ndarray] = {}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds + (rounds > 1)):
        for name in list(contestants) if i % 2 == 0 else reversed(contestants):
            pipes[name].send(True)
            outputs[name], seconds = pipes[name].recv()
            times[name].append(seconds)
    for pipe in pipes.values():
        pipe.send(False)
    for name in alike or tuple(contestants):
        error = np.linalg.norm(outputs[name] - outputs["dit-eval"]) / np.linalg.norm(outputs[name])
        assert error < 1e-3, f"{name} differs by {error:.1e}"
    return {name: taken[-rounds:] for name, taken in times.items()}


def rows_of(task: str, times: dict[str, list[float]], items: int, floor: float) -> list[dict[str, object]]:
    """A line for each contestant."""
    rows = []
    for name, taken in times.items():
        middle = statistics.median(taken)
        package = {"scipy sqrtm": "scipy", "ADM's method in NumPy": "numpy"}.get(name, name)
        rows.append(
            {
                "task": task,
                "contestant": name,
                "version": version(package),
                "seconds": f"{middle:.3f}",
                "items_per_second": f"{items / middle:.2f}",
                "time_over_ours": f"{statistics.median(np.divide(taken, times['dit-eval'])):.2f}",
                "time_over_floor": f"{middle / floor:.2f}" if floor else "",
                "share_of_floor": f"{floor / middle:.3f}" if floor else "",
                "rounds": len(taken),
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def precision_recall_rows(
    m: int, n: int, rounds: int, contestants: dict[str, Contestant], rate: float, device: str
) -> list[dict[str, object]]:
    """Each half of a set's distances to itself and those between the sets, at the rate of matrix products."""
    floor = 2 * DIMENSION * (m * m / 2 + n * n / 2 + m * n) / rate
    times = race(contestants, (m, n, device), rounds)
    return rows_of(f"precision and recall, {m:,} × {n:,}", times, m + n, floor)


def inception_flops() -> int:
    """Floating-point operations of one image's pass, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from dit_eval.features.inception import Inception

    with patch.object(torch, "load"), patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = Inception({}).eval().to("meta")  # where its operators are those that the counter knows
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 299, 299, device="meta"))
    return counter.get_total_flops()


@click.command()
@click.option("--inception", type=click.Path(exists=True, path_type=Path), envvar="DIT_EVAL_INCEPTION")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--long", is_flag=True, help="Precision and recall at 10,000 × 50,000 too.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def main(inception: Path | None, rounds: int, long: bool, device: str) -> None:
    """Race, print and keep the result as CSV."""
    weights = inception or assets.fetch(assets.lookup("models", "inception-2015-12-05"))
    rate, per_image = matmul_rate(torch.float32, torch.device(device)), inception_flops()
    click.echo(f"matmul: {rate / 1e9:.0f} GFLOP/s; Inception: {per_image / 1e9:.2f} GFLOP an image")
    rows = []
    for n in (16, 64):
        times = race(FEATURES, (n, weights, device), rounds, SAME_RESIZE)
        rows += rows_of(f"features, {n} images of 256×256", times, n, n * per_image / rate)
    rows += rows_of("Fréchet distance, 2048 dimensions", race(FRECHET, (device,), rounds), 1, 0)
    rows += precision_recall_rows(5_000, 10_000, rounds, PRECISION_RECALL, rate, device)
    if long:  # torch-fidelity keeps all distances at once
        two = {name: PRECISION_RECALL[name] for name in ("dit-eval", "ADM's method in NumPy")}
        rows += precision_recall_rows(10_000, 50_000, 1, two, rate, device)
    click.echo(keep("evaluate", rows, device))


if __name__ == "__main__":
    main()
