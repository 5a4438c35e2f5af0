"""Show that no number moves between two checkouts: `python tools/compare_checkouts.py BEFORE AFTER`.

The same recorder runs in each checkout, in a process of its own with an empty cache. It keeps the SHA-256 of
every array and every number as a hexadecimal float, and all of them must be equal. It uses only the command
line, the public functions, and names that it looks up in whole packages, so that their modules may move.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import astuple, fields, is_dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

Entries = dict[str, list[Any]]  # by name: how many values, and their digest or digits

FORMS = ("sigma", "constant", "sbdm", "linear", "decreasing", "increasing-decreasing", "kl")
SDE = [("euler", form, "mean") for form in FORMS] + [("euler", "sigma", "none")]
SDE += [("heun", "sigma", last) for last in ("mean", "tweedie", "euler")]
SAMPLES = {  # batches that are drawn from the command line
    "digits": "--model digits --num 300",  # FID∞ takes 256
    "digits-sit": "--model digits-sit --num 64",
    "guided": "--model digits --num 32 --cfg 1.25",
    "all channels": "--model digits --num 32 --cfg 1.5 --cfg-channels all --steps 20 --seed 5",
    "ddim": "--model digits --num 32 --cfg 1.25 --sampler ddim --steps 10 --labels balanced",
    "ddim, eta": "--model digits --num 32 --sampler ddim --steps ddim10 --eta 0.5 --labels 3",
    "interval": "--model digits --num 32 --cfg 1.5 --cfg-interval 0.3 3 --steps 20 --batch-size 12",
    "bf16": "--model digits --num 32 --steps 10 --precision bf16",
    "ode": "--model digits-sit --num 32 --cfg 1.25 --sampler ode --solver heun --steps 10",
    "dopri5": "--model digits-sit --num 8 --cfg 1.25 --sampler ode --solver dopri5 --labels balanced",
    "sde": "--model digits-sit --num 32 --sampler sde --solver heun --steps 10 --last-step tweedie",
    "sde, interval": "--model digits-sit --num 32 --cfg 1.5 --cfg-interval 0.2 2 --diffusion linear",
}


def find(package: str, name: str) -> Any:
    """What is called `name` in dit_eval.`package` or in any of its modules."""
    home = importlib.import_module(f"dit_eval.{package}")
    inside = (f"{home.__name__}.{each.name}" for each in pkgutil.iter_modules(home.__path__))
    modules = [home, *map(importlib.import_module, inside)]
    found = (getattr(module, name) for module in modules if hasattr(module, name))
    return next(each for each in found if not inspect.ismodule(each))  # ddim is a module and its function


class Recorder:
    """What the cases of one checkout work with, and the entries that they make."""

    def __init__(self, golden: Path, folder: Path) -> None:
        self.golden, self.folder, self.entries = golden, folder, Entries()
        sys.path.append(str(golden))  # its scripts make weights, features and noise

    def keep(self, key: str, value: Any) -> None:
        """Record an array, a number, or whatever is made of them."""
        if isinstance(value, torch.Tensor):
            value = value.numpy()
        if is_dataclass(value) and not isinstance(value, type):
            value = astuple(value)
        if isinstance(value, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            total = float(value.sum(dtype=np.float64))
            self.entries[key] = [value.size, f"{value.dtype} {value.shape}, sum {total!r}, SHA-256 {digest}"]
        elif isinstance(value, (Mapping, list, tuple)):
            for name, each in value.items() if isinstance(value, Mapping) else enumerate(value):
                self.keep(f"{key}, {name}", each)
        else:
            self.entries[key] = [1, value.hex() if isinstance(value, float) else str(value)]

    def run(self, *arguments: str | Path) -> str:
        """What `python -m dit_eval` with these arguments prints."""
        command = [sys.executable, "-m", "dit_eval", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"{' '.join(command[1:])}: {found.stderr}")
        return found.stdout

    def fid(self, samples: Path, reference: str | Path, *options: str | Path) -> None:
        """Measure a batch from the command line and record its numbers."""
        out = self.folder / f"{samples.stem}.measured.json"
        self.run(
            "fid", samples, reference, *options, "--metric", "fid_infinity", "--device", "cpu", "--json", out
        )
        self.result(out)

    def result(self, file: Path) -> None:
        """Record the numbers of a result's JSON, and the influences in it or, formerly, beside it."""
        key, document = f"{file.parent.name}/{file.name}", json.loads(file.read_text("utf-8"))
        self.keep(key, {part: document[part] for part in ("metrics", "intervals")})
        for metric, table in document.get("classes", {}).items():
            self.keep(f"{key}, classes, {metric}", [np.array(column) for column in table.values()])
        if "influence" in document:
            from dit_eval import Result

            self.keep(key, dict(Result.from_json(file.read_text("utf-8")).influence))
        for influences in file.parent.glob(f"{file.stem}*.npz"):
            with np.load(influences) as arrays:
                self.keep(key, {k: v for k, v in arrays.items() if v.dtype.kind == "f"})

    def batch(self, file: Path) -> None:
        """Record the arrays and the bytes of a batch."""
        with np.load(file) as arrays:
            content = {name: arrays[name] for name in ("arr_0", "arr_1")}
        self.keep(f"{file.parent.name}/{file.name}", content | {"file": np.fromfile(file, np.uint8)})

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The arrays of one of the golden files."""
        with np.load(self.golden / f"{name}.npz") as arrays:
            return {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind in "fiu"}

    @cached_property
    def inception(self) -> tuple[Path, np.ndarray]:
        """The synthetic weights of the feature network as a file, and its last layer."""
        script = importlib.import_module("make_inception_weights")
        path = self.folder / "inception.safetensors"
        weights = script.build(0, str(self.golden / "calib_seed0.npz"))
        script.save(weights, str(path))
        return path, weights["fc.weight"]

    def model(self, name: str, **options: Any) -> Any:
        """The model of case D called `name`, with frozen weights, of any block."""
        recipe = importlib.import_module("make_dit_weights")
        facts, config = dict(recipe.CONFIGS[name]), find("dit", "DiTConfig")
        values = [facts.pop(key) for key in ("depth", "hidden_size", "num_heads", "patch_size")]
        shape = zip([field.name for field in fields(config)], values, strict=True)  # their names may change
        model = find("dit", "build_dit")(config(**dict(shape)), **facts, **options).eval()
        for key, parameter in model.named_parameters():
            weight = torch.from_numpy(recipe.noise(key, 0, tuple(parameter.shape)))
            parameter.data.copy_(weight / weight[0].numel() ** 0.5)
        return model


def gaussian(features: np.ndarray) -> Any:
    """Mean and covariance of features (N, D)."""
    moments = find("metrics", "Moments")(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def resized(name: str, images: torch.Tensor) -> torch.Tensor:
    """The input of a network for uint8 images (N, H, W, 3)."""
    resize: Any = find("features", "RESIZES")[name]
    if not hasattr(resize, "on_device"):  # formerly a single step
        return resize(images)
    if resize.on_host:
        images = torch.from_numpy(np.stack([resize.on_host(image) for image in images.numpy()]))
    return resize.on_device(images)


def case_a(to: Recorder) -> None:
    """Features of images of three sizes behind both resizes, and those of digits."""
    for size, resize in product((64, 256, 512), ("tf1-bilinear", "clean-fid-bicubic")):
        blocks = to.tensors(f"caseA_{size}")["arr_0"].split(8)
        inputs = [resized(resize, block) for block in blocks]
        features = zip(*map(find("features", "load_inception")(to.inception[0]), inputs), strict=True)
        to.keep(f"{size}, {resize}", [torch.cat(each) for each in (inputs, *features)])
    network = find("features", "load_digits_network")(next(Path("models").rglob("features.safetensors")))
    with np.load(next(Path("reference_stats").rglob("digits.npz"))) as real:
        to.keep("digits", tuple(network(find("features", "no_resize")(torch.from_numpy(real["arr_0"])))))


def case_b(to: Recorder) -> None:
    """The metric functions on frozen features."""
    distance, influence = find("metrics", "frechet_distance"), find("metrics", "frechet_influence")
    for case in ("full_rank", "rank_deficient", "over_10000", "fp16_overflow", "fp16_outlier"):
        features = importlib.import_module("make_features").case(case)
        for kind in ("pool", "spatial"):
            sides = [gaussian(features[f"{side}_{kind}"]) for side in ("samples", "ref")]
            phi = influence(features[f"samples_{kind}"], *sides)
            found = [*sides, distance(*sides), phi, find("metrics", "interval")(1.0, phi)]
            to.keep(f"{case}, distance, {kind}", found)
        ours, theirs = features["samples_pool"], features["ref_pool"]
        probabilities = torch.softmax(torch.from_numpy(ours @ to.inception[1].T), dim=1).numpy()
        score = find("metrics", "InceptionScore")(5000)
        score.update(probabilities, 0)
        phi = find("metrics", "score_influence")(probabilities, 5000)
        zeros = int((probabilities == 0).sum())
        to.keep(f"{case}, score", [score.in_file_order(), score.order_free(), zeros, phi])
        for float16 in (True, False):
            found = find("metrics", "precision_recall")(theirs, ours, float16=float16)
            numbers = [found.precision, found.recall, *vars(found).values()]
            to.keep(f"{case}, precision and recall, {'float16' if float16 else 'exact'}", numbers)
        to.keep(f"{case}, influence", [found.precision_influence(), found.recall_influence()])
        if case == "over_10000":
            some, other = ours[:, :64], gaussian(theirs[:, :64])
            phi = influence(some, gaussian(some), other)
            to.keep("extrapolated", find("metrics", "extrapolated_distance")(some, other, phi))


def case_c(to: Recorder) -> None:
    """All numbers of a batch of real images, from the command line."""
    samples, reference = (to.golden / f"caseC_{side}_64.npz" for side in ("samples", "ref"))
    to.fid(samples, reference, "--inception", to.inception[0])


def case_networks(to: Recorder) -> None:
    """Passes of DiT and SiT, with and without guidance, and with every block (case D)."""
    arrays, sit = to.tensors("caseD_dit"), to.tensors("caseD_sit")
    for name in ("small", "S8"):
        x, t, y, times, classes = (arrays[f"{name}_{key}"] for key in ("x", "t", "y", "cfg_t", "cfg_y"))
        model, half = to.model(name), len(x) // 2
        to.keep(f"{name}, forward", [model(x, t, y), model.pos_embed])
        for channels in (3, None):
            options = {"null_class": int(classes[-1]), "scale": 1.5, "channels": channels}
            denoiser = find("sampling", "guided")(model, classes[:half], **options)
            to.keep(f"{name}, guided, {channels}", denoiser(x[:half], int(times[0])))
    for block in ("adaln-zero", "adaln", "cross-attention", "in-context"):
        to.keep(block, to.model("small", block=block)(sit["x"], sit["t"], sit["y"]))


def case_chains(to: Recorder) -> None:
    """Schedules and whole chains of the small model, with recorded noise (case D)."""
    recipe, model = importlib.import_module("make_dit_weights"), to.model("small")
    drawn = [torch.from_numpy(recipe.noise("chain", step, (2, 4, 8, 8))) for step in range(251)]

    def chain(key: str, sampler: str, schedule: Any, n: int = 2, **options: Any) -> None:
        denoiser = find("sampling", "guided")(model, torch.tensor([3, 7])[:n], null_class=10, scale=1.5)
        noise = lambda step, _: drawn[step][:n]  # noqa: E731
        last = find("sampling", sampler)(denoiser, drawn[-1][:n], schedule, noise, **options)
        to.keep(f"{sampler}, {key}", last)

    for steps in ("10", "ddim10", "250", "10,15,20"):
        schedule = find("sampling", "diffusion_schedule")(steps)
        to.keep(f"schedule, {steps}", [schedule.betas, schedule.timesteps, schedule.posterior_variance])
        for clip in (False, True):
            chain(f"{steps}, {clip}", "ddpm", schedule, clip=clip)
            for eta in (0.0, 1.0):
                chain(f"{steps}, {clip}, {eta}", "ddim", schedule, clip=clip, eta=eta)
    for path, prediction in product(("linear", "gvp", "vp"), ("velocity", "score", "noise")):
        told: dict[str, Any] = {"path": path, "prediction": prediction}
        for solver in ("euler", "midpoint", "heun", "heun3", "rk4", "dopri5"):
            steps, n = (None, 1) if solver == "dopri5" else (10, 2)
            schedule = find("sampling", "ode_schedule")(steps, solver=solver, **told)
            to.keep(f"times, {path}, {prediction}, {solver}", schedule.times)
            if prediction == "velocity":  # dopri5 would take a thousand steps of the others
                chain(f"{path}, {solver}", "ode", schedule, n)
        for solver, form, last in SDE:
            told |= {"solver": solver, "diffusion": form, "last_step": last, "last_step_size": 0.04}
            chain(", ".join(map(str, told.values())), "sde", find("sampling", "sde_schedule")(10, **told))
    noise = find("sampling", "ImageNoise")(7, torch.tensor([0, 5, 2**33]))
    to.keep("noise", [noise.latents((3, 4, 8, 8)), noise(0, (3, 4, 8, 8)), noise(249, (3, 1, 5, 5))])


def case_digits(to: Recorder) -> None:
    """Batches of the bundled models; the numbers of two of them, from the command line and from Python."""
    import dit_eval

    for name, options in SAMPLES.items():
        to.run("sample", *options.split(), "--device", "cpu", "--out", to.folder / f"{name}.npz")
        to.batch(to.folder / f"{name}.npz")
    for name in ("digits", "digits-sit"):
        to.fid(to.folder / f"{name}.npz", "digits")
        with np.load(to.folder / f"{name}.npz") as drawn:
            result: Any = dit_eval.evaluate(np.array_split(drawn["arr_0"], 5), "digits", device="cpu")
        to.keep(f"evaluate, {name}", [result.metrics, result.intervals])


def case_demo(to: Recorder) -> None:
    """The batches and numbers of `dit-eval demo`."""
    to.run("demo", "--device", "cpu", "--out", to.folder / "demo")
    for file in sorted((to.folder / "demo").rglob("cfg-?.??.npz")):
        to.batch(file)
        to.result(file.with_suffix(".result.json"))


def case_flops(to: Recorder) -> None:
    """The tables of costs; the numbers of each row in rising order, because their names may change."""
    for size, block in product(("256", "512"), ("adaln-zero", "all")):
        text = to.run("flops", "table", "--format", "json", "--image-size", size, "--block", block)
        for index, row in enumerate(json.loads(text)["rows"]):
            numbers = sorted(each for each in row.values() if isinstance(each, (int, float)))
            to.keep(f"{size}, {block}, {index}", numbers)


def case_machine(to: Recorder) -> None:
    """What rounds the last bit beside the code: recordings of two machines cannot be compared."""
    for name in ("torch", "numpy", "scipy"):
        to.keep(name, importlib.import_module(name).__version__)
    to.keep("processor", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")


ALL = (case_a, case_b, case_c, case_networks, case_chains, case_digits, case_demo, case_flops, case_machine)
CASES = {case.__name__.removeprefix("case_"): case for case in ALL}


def record(out: str, golden: str, *names: str) -> None:
    """Run the named cases with the dit_eval of the working folder; one that fails is left empty."""
    import dit_eval

    assert Path(str(dit_eval.__file__)).is_relative_to(Path.cwd()), f"{dit_eval.__file__} is another checkout"
    recording: dict[str, Entries] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        (home := Path(folder, "recorded")).mkdir()  # entries are named after it
        to = Recorder(Path(golden), home)
        for name in names:
            began, to.entries = time.monotonic(), {}
            try:
                CASES[name](to)
                recording[name] = to.entries
            except Exception:  # the other cases are still of interest
                click.echo(traceback.format_exc(), err=True)
            click.echo(f"  {name}: {len(to.entries):,} entries, {time.monotonic() - began:.0f} s", err=True)
    Path(out).write_text(json.dumps(recording, indent=1), "utf-8")


def read(side: Path, golden: Path | None, names: list[str]) -> dict[str, Entries]:
    """The recording of a checkout, made now, or a saved one."""
    if side.is_file():
        return json.loads(side.read_text("utf-8"))
    side = side.resolve()
    inputs = (golden or side.parent / "shared" / "golden").resolve()
    if not inputs.is_dir():
        raise click.UsageError(f"{inputs} is not there; say with --golden where the recorded inputs are.")
    click.echo(f"Recording {side}", err=True)
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([str(side), str(Path(__file__).resolve().parent)])
        variables = {**os.environ, "PYTHONPATH": path, "DIT_EVAL_CACHE": str(Path(folder, "cache"))}
        variables |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
        variables.pop("DIT_EVAL_INCEPTION", None)
        out = Path(folder, "recording.json")
        code = "import sys, compare_checkouts; compare_checkouts.record(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(out), str(inputs), *names]
        subprocess.run(command, cwd=side, env=variables, check=True)
        return json.loads(out.read_text("utf-8"))


def compare(name: str, before: Entries, after: Entries) -> bool:
    """Print the row of a case and some of what differs in it; True if nothing does."""
    absent, keys = [0, "absent"], {**before, **after}
    differing = [key for key in keys if before.get(key, absent) != after.get(key, absent)]
    failed = not (before and after)
    outcome = "FAILED" if failed else f"{len(differing):,} DIFFERENT" if differing else "equal"
    click.echo(f"{name:<12} {len(keys):>8,} {sum(count for count, _ in before.values()):>12,}  {outcome}")
    for key in [] if failed else differing[:8]:
        was, now = (side.get(key, absent)[1] for side in (before, after))
        click.echo(f"    {key}\n        before: {was}\n        after:  {now}")
    return not (failed or differing)


PATH = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("before", type=EXISTING)
@click.argument("after", type=EXISTING, required=False)
@click.option("--golden", type=PATH, help="The recorded inputs.  [default: ../shared/golden]")
@click.option("--save", type=PATH, help="Write the recording of BEFORE as JSON.")
@click.option("--only", multiple=True, type=click.Choice(list(CASES)), help="Only this case; repeatable.")
def main(before: Path, after: Path | None, golden: Path | None, save: Path | None, only: list[str]) -> None:
    """Compare all numbers of two checkouts to the last bit.

    BEFORE and AFTER are folders of checkouts, or recordings that --save has written. Without AFTER, BEFORE is
    only recorded. The recorded inputs lie in ../shared/golden of each checkout unless --golden is given.
    """
    names = only or list(CASES)
    first = read(before, golden, names)
    if save is not None:
        save.write_text(json.dumps(first, indent=1) + "\n", "utf-8")
    second = first if after is None else read(after, golden, names)
    click.echo(f"{'case':<12} {'entries':>8} {'values':>12}  outcome")
    equal = [compare(name, first.get(name, {}), second.get(name, {})) for name in names]
    sys.exit(not all(equal))


if __name__ == "__main__":
    main()
