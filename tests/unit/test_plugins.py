"""Plug-ins: how they are found and called, what their plans record, and what goes wrong in them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import dit_eval
from dit_eval.errors import CheckpointError, DitEvalWarning, ModelError, UsageError
from dit_eval.generation.pipeline import generate
from dit_eval.io.assets import sha256

PLUGIN = """
import functools
import random

import numpy as np
import torch
import dit_eval


def load(device, level=0.0):
    def predict(x, t, y):
        return 3 * (y.view(-1, 1, 1, 1) / 10 - 0.5 + level - x)

    return dit_eval.FlowModel(predict, (3, 8, 8), num_classes=10)


def with_checkpoint(ckpt):
    weights = dit_eval.checkpoint(ckpt, key="ema")
    return dit_eval.FlowModel(lambda x, t, y: 3 * (weights["w"] - x), (3, 8, 8), num_classes=10)


def draws_by_itself(device):
    def images(labels):
        noise = torch.rand(len(labels), 3, 8, 8) + np.random.rand() + random.random()
        return noise / 3 + labels.view(-1, 1, 1, 1) * 0

    return dit_eval.ImageModel(images, 8, num_classes=10, value_range=(0, 1))


def draws_with_generators():
    def images(labels, generators, cfg, steps):
        assert (cfg, steps) == (2.0, 7)
        return torch.stack([torch.rand(3, 8, 8, generator=generator) for generator in generators])

    return dit_eval.ImageModel(images, 8, num_classes=10, value_range=(0, 1))


def returns_nothing():
    pass


def fails():
    raise KeyError("blocks")


def anything(**settings):
    return load(**settings)


class Loader:
    def __call__(self):
        return load(None)


part = functools.partial(load, level=0.0)
instance = Loader()
"""

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Draw]:
    """`generate` in a folder that holds the plug-in, ten images in batches of four, into b.npz or `out`."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(function: str = "load", out: str = "b.npz", **options: Any) -> Path:
        sys.modules.pop("my_plugin", None)
        settings = {"num": 10, "batch_size": 4, "device": "cpu"} | options
        return generate(f"my_plugin:{function}", out=tmp_path / out, **settings)

    yield call
    sys.modules.pop("my_plugin", None)


def images(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"]


def plan(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text("utf-8"))["plan"]


# Finding and calling


def test_function_of_a_module_in_the_working_directory_is_sampled(draw: Draw) -> None:
    path = draw(steps=3)
    assert images(path).shape == (10, 8, 8, 3)
    assert (plan(path)["model"], plan(path)["sampler"], plan(path)["cfg_channels"]) == (
        "my_plugin:load",
        "ode",
        "all",
    )


def test_arguments_reach_the_function(draw: Draw) -> None:
    brighter = draw(out="c.npz", steps=3, model_args={"level": 0.3})
    assert images(brighter).mean() > images(draw(steps=3)).mean() + 10
    assert plan(brighter)["source"]["arguments"] == {"level": 0.3}


@pytest.mark.parametrize("function", ["part", "instance"])
def test_every_callable_object_is_a_plugin_with_a_source(draw: Draw, tmp_path: Path, function: str) -> None:
    drawn = draw(function, out=f"{function}.npz")
    assert (images(drawn) == images(draw("load"))).all()
    assert sha256(tmp_path / "my_plugin.py") in json.dumps(plan(drawn))


def test_installed_plugin_is_known_by_the_name_of_its_entry_point(draw: Draw, tmp_path: Path) -> None:
    metadata = tmp_path / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dit_eval.models]\nmine = my_plugin:load\n")
    sys.path.insert(0, str(tmp_path))
    named = generate("mine", out=tmp_path / "named.npz", num=10, batch_size=4, steps=3, device="cpu")
    np.testing.assert_array_equal(images(named), images(draw(steps=3)))


def test_object_gives_the_images_of_its_plugin(draw: Draw, tmp_path: Path) -> None:
    model = dit_eval.FlowModel(
        lambda x, t, y: 3 * (y.view(-1, 1, 1, 1) / 10 - 0.5 - x), (3, 8, 8), num_classes=10
    )
    path = generate(model, out=tmp_path / "object.npz", num=10, batch_size=4, steps=3, device="cpu")
    np.testing.assert_array_equal(images(path), images(draw(steps=3)))
    assert plan(path)["source"] == {"object": "FlowModel"}


def test_object_with_a_module_is_identified_by_its_parameters(tmp_path: Path) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return 3 * (self.level - x)

    network = Network()

    def draw() -> Path:
        return generate(
            dit_eval.FlowModel(network, (3, 8, 8), num_classes=10),
            **{"out": tmp_path / "b.npz", "num": 4, "steps": 3, "device": "cpu"},
        )

    assert len(plan(draw())["source"]["parameters_sha256"]) == 64
    draw()  # the same parameters: nothing to do
    network.level.add_(0.1)
    with pytest.raises(UsageError, match="made with other settings: source"):
        draw()


# Provenance


def test_plan_records_file_commit_and_checkpoints(draw: Draw, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.check_output(["git", *identity, *arguments], cwd=tmp_path, text=True).strip()

    torch.save({"ema": {"w": torch.tensor(0.25)}}, tmp_path / "last.pt")
    git("init", "--quiet")
    git("add", "my_plugin.py")
    git("commit", "--quiet", "-m", "first")
    options = {"steps": 3, "model_args": {"ckpt": "last.pt"}}
    source = plan(draw("with_checkpoint", **options))["source"]
    assert source == {
        "plugin": "my_plugin:with_checkpoint",
        "arguments": {"ckpt": "last.pt"},
        "file_sha256": sha256(tmp_path / "my_plugin.py"),
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": False},
        "checkpoints": [{"file": "last.pt", "sha256": sha256(tmp_path / "last.pt"), "key": "ema"}],
    }
    (tmp_path / "my_plugin.py").write_text(PLUGIN + "\n# changed\n")
    with pytest.raises(UsageError, match="other settings: source"):
        draw("with_checkpoint", **options)
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    draw("with_checkpoint", **options)
    torch.save({"ema": {"w": torch.tensor(0.5)}}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match="other settings: source"):
        draw("with_checkpoint", **options)


@pytest.mark.parametrize(
    ("key", "complaint"), [("emma", r"no entry 'emma' \(found: ema\)"), (None, "no such")]
)
def test_checkpoint_that_cannot_be_used_is_refused(tmp_path: Path, key: str | None, complaint: str) -> None:
    torch.save({"ema": {}}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=complaint if key else "missing"):
        dit_eval.checkpoint(tmp_path / ("last.pt" if key else "nothing.pt"), key=key)


# Models that sample by themselves


def test_batch_of_a_model_that_samples_by_itself_does_not_depend_on_what_was_drawn_before(draw: Draw) -> None:
    expected = images(draw("draws_by_itself"))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    again = draw("draws_by_itself", out="again.npz")
    np.testing.assert_array_equal(images(again), expected)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002


def test_interrupted_batch_of_a_model_that_samples_by_itself_resumes_to_the_same_bytes(draw: Draw) -> None:
    expected = sha256(draw("draws_by_itself"))

    def interrupt(progress: Any) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw("draws_by_itself", out="again.npz", progress=interrupt)
    assert sha256(draw("draws_by_itself", out="again.npz")) == expected


def test_batches_and_seeds_of_a_model_that_samples_by_itself_differ(draw: Draw) -> None:
    drawn = images(draw("draws_by_itself"))
    assert len(np.unique(drawn.reshape(10, -1), axis=0)) == 10
    assert (images(draw("draws_by_itself", out="c.npz", seed=1)) != drawn).any(axis=(1, 2, 3)).all()


def test_images_drawn_with_their_own_generators_do_not_depend_on_the_batch_size(draw: Draw) -> None:
    settings = {"cfg": 2.0, "steps": 7}
    four, three = (
        draw("draws_with_generators", out=f"{size}.npz", batch_size=size, **settings) for size in (4, 3)
    )
    np.testing.assert_array_equal(images(four), images(three))
    assert (plan(four)["cfg"], plan(four)["steps"]) == (2.0, "7")


def test_settings_of_a_sampler_do_not_fit_a_model_that_samples_by_itself(draw: Draw) -> None:
    for settings in ({"cfg": 1.5}, {"steps": 10}, {"sampler": "ode"}, {"eta": 0.5}, {"cfg_interval": (0, 1)}):
        with pytest.raises(UsageError, match="samples images by itself and takes no"):
            draw("draws_by_itself", **settings)


@pytest.mark.parametrize("steps", ["ddim50", 0, -3])
def test_steps_of_a_model_that_samples_by_itself_are_a_positive_integer(draw: Draw, steps: Any) -> None:
    with pytest.raises(UsageError, match=f"steps is {steps} and my_plugin:draws_with_generators takes"):
        draw("draws_with_generators", steps=steps)


# What goes wrong


@pytest.mark.parametrize(
    ("function", "arguments", "complaint"),
    [
        ("lod", {}, r"module my_plugin has no function 'lod' \(found: load, with_checkpoint, "),
        ("load", {"levle": 1}, r"my_plugin:load takes no argument 'levle' \(arguments: level\)"),
        ("with_checkpoint", {}, "needs the argument 'ckpt' .* pass --model-arg ckpt=VALUE"),
        ("returns_nothing", {}, "returned an object of type NoneType; expected dit_eval.ImageModel"),
        ("fails", {}, "my_plugin:fails raised KeyError: 'blocks'"),
        ("anything", {"levle": 1}, "raised TypeError: .*unexpected keyword argument 'levle'"),
    ],
)
def test_function_that_cannot_be_used_is_refused(
    draw: Draw, function: str, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises((UsageError, ModelError), match=complaint):
        draw(function, model_args=arguments)


def test_module_that_does_not_exist_is_named_with_the_places_searched(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no module 'your_plugin' in {tmp_path} or among"):
        generate("your_plugin:load", out=tmp_path / "b.npz")


@pytest.mark.parametrize("missing", ["torch.does_not_exist", "broken"])
def test_import_that_fails_keeps_its_cause(draw: Draw, tmp_path: Path, missing: str) -> None:
    (tmp_path / "broken_plugin.py").write_text(f"import {missing}\n")
    with pytest.raises(ModelError, match="importing broken_plugin raised ModuleNotFoundError") as error:
        generate("broken_plugin:load", out=tmp_path / "b.npz")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def model(predict: Callable[..., Any], **settings: Any) -> dit_eval.FlowModel:
    return dit_eval.FlowModel(predict, (3, 8, 8), num_classes=10, **settings)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (
            model(lambda x, t, y: x[:, :2]),
            r"predict returned a value of shape \(4, 2, 8, 8\); expected .*3 or more",
        ),
        (model(lambda x, t, y: x[..., :4]), r"of shape \(4, 3, 8, 4\)"),
        (model(lambda x, t, y: None), "predict returned a value of type NoneType"),
        (model(lambda x, t, y: x @ y), "predict raised RuntimeError"),
        (model(lambda x, t, y: x * torch.nan), "of the 4 samples of a batch are not finite"),
        (
            model(lambda x, t, y: -x, decode=lambda z: z[:, :2]),
            r"the model returns images of float32 \(., 2, 8, 8\)",
        ),
        (model(lambda x, t, y: -x, decode=lambda z: z[..., :4]), "expected square ones"),
        (
            model(lambda x, t, y: -x, decode=lambda z: z.nope),
            "the decoder of FlowModel raised AttributeError",
        ),
        (model(lambda x, t, y: -x, decode=lambda z: z.numpy()), "returned an object of type ndarray"),
        (
            dit_eval.DiffusionModel(lambda x, t, y: torch.cat([x, x], 1), (3, 8, 8), num_classes=10),
            r"of shape \(4, 6, 8, 8\); expected .*\(4, 3, 8, 8\)",
        ),
        (
            dit_eval.DiffusionModel(lambda x, t, y: x, (3, 8, 8), num_classes=10, learned_variance=True),
            r"of shape \(4, 3, 8, 8\); expected .*\(4, 6, 8, 8\)",
        ),
        (
            dit_eval.ImageModel(cast(Any, lambda labels: np.zeros((4, 3, 8, 8))), 8),
            "images returned ndarray for 4",
        ),
        (dit_eval.ImageModel(lambda labels: labels, 8), r"images returned \(4,\) for 4 labels"),
        (dit_eval.ImageModel(lambda labels: torch.zeros(4, 3, 9, 9), 8), r"images returned \(4, 3, 9, 9\)"),
    ],
)
def test_output_that_cannot_be_used_is_refused(tmp_path: Path, broken: Any, complaint: str) -> None:
    settings: dict[str, Any] = {} if isinstance(broken, dit_eval.ImageModel) else {"steps": 2}
    with pytest.raises((ModelError, CheckpointError), match=complaint):
        generate(broken, out=tmp_path / "b.npz", num=4, device="cpu", **settings)
    assert not (tmp_path / "b.npz").exists()


def test_values_out_of_range_are_a_warning_with_their_share(tmp_path: Path) -> None:
    half = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(4, 3, 8, 8) * 2
    with pytest.warns(DitEvalWarning, match=r"^50\.0% of the values that ImageModel returned"):
        generate(dit_eval.ImageModel(lambda labels: half, 8), out=tmp_path / "b.npz", num=4, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"shape": (3, 8)}, r"shape is \(3, 8\); expected \(channels, height, width\)"),
        ({"prediction": "v"}, "prediction 'v' is not one of velocity, "),
        ({"noise_at": 0.5}, "noise at 0.5 is not one of 0, 1"),
        ({"noise_scale": 0}, "noise_scale is 0; expected a positive number"),
        ({"t_eps": 1.0}, "t_eps is 1.0; expected a number from 0 to below 1"),
        ({"value_range": (1, 1)}, r"value_range is \(1, 1\)"),
        ({"predict": None}, "predict is of type NoneType; expected a function"),
        ({"decode": 3}, "decode is of type int; expected a function"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_model_with_arguments_out_of_range_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        dit_eval.FlowModel(**({"predict": lambda x, t, y: x, "shape": (3, 8, 8)} | arguments))


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0, 0.1], [0.5, 1.0]])
def test_betas_that_are_no_schedule_are_refused(betas: Any) -> None:
    with pytest.raises(UsageError, match="betas must be a sequence of numbers between 0 and 1"):
        dit_eval.DiffusionModel(lambda x, t, y: x, (3, 8, 8), betas=betas)
