from __future__ import annotations

from typing import Any

import pytest
import torch

from dit_eval.dit import DiTConfig
from dit_eval.errors import UsageError
from dit_eval.generation.model_lookup import ModelSpec
from dit_eval.generation.model_lookup import find_model as find_any_model
from dit_eval.io import assets
from dit_eval.io.assets import ModelEntry


def find_model(*arguments: Any) -> ModelSpec:
    """A model that is no plug-in."""
    spec = find_any_model(*arguments)
    assert isinstance(spec, ModelSpec)
    return spec


SHAPE = {"depth": 2, "hidden_size": 64, "num_heads": 2, "patch_size": 2}
REGISTERED = {
    asset.name: asset
    for asset in (
        ModelEntry(name="sd-vae", role="vae"),
        ModelEntry(name="xl-256", role="dit", model="XL/2", image_size=256),
        ModelEntry(name="xl-512", role="dit", model="XL/2", image_size=512),
        ModelEntry(name="sit-256", role="dit", family="SiT", model="XL/2", image_size=256, path="linear"),
        ModelEntry(name="own", role="dit", image_size=8, config=SHAPE, cfg=1.5),
    )
}


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "manifest", lambda _: REGISTERED)
    monkeypatch.setattr(assets, "fetch", lambda asset: tmp_path / asset.name)


@pytest.mark.parametrize("model", ["XL/2", "DiT-XL/2", "dit-xl/2"])
@pytest.mark.parametrize(("size", "name"), [(None, "xl-256"), (256, "xl-256"), (512, "xl-512")])
def test_architecture_and_size_name_the_public_weights(model, size, name):
    spec = find_model(model, None, size)
    assert (spec.name, spec.config) == (name, "XL/2")


@pytest.mark.parametrize("model", ["SiT-XL/2", "sit-xl/2", "sit-256"])
def test_name_of_a_sit_is_never_a_dit(model):
    spec = find_model(model)
    assert (spec.name, spec.family, spec.sampler) == ("sit-256", "flow", "sde")
    with pytest.raises(UsageError, match="no weights of SiT-XL/2 at 512"):
        find_model("SiT-XL/2", None, 512)


@pytest.mark.parametrize(
    ("model", "family", "sampler"),
    [
        ("XL/2", "diffusion", "ddpm"),
        ("SiT-XL/2", "flow", "sde"),
        ("REPA-XL/2", "flow", "sde"),
        (DiTConfig(**SHAPE), None, "ddpm"),
    ],
)
def test_name_determines_family_and_sampler_of_a_checkpoint(tmp_path, model, family, sampler):
    (tmp_path / "mine.pt").touch()
    spec = find_model(model, tmp_path / "mine.pt")
    assert (spec.family, spec.sampler) == (family, sampler)


def test_registered_model_has_the_shape_and_defaults_of_its_entry(tmp_path):
    spec = find_model("own")
    assert spec.config == DiTConfig(**SHAPE)
    assert spec.weights == tmp_path / "own"
    assert spec.defaults["cfg"] == 1.5


def test_checkpoint_may_be_a_registered_name():
    assert find_model("XL/2", "xl-512").name == "xl-512"


def test_registered_network_that_does_not_generate_images_is_refused():
    with pytest.raises(UsageError, match=r"sd-vae is not a DiT or SiT .*xl-256, xl-512, sit-256, own"):
        find_model("XL/2", "sd-vae")


def test_checkpoint_may_be_a_file(tmp_path):
    (tmp_path / "mine.pt").touch()
    spec = find_model("XL/2", tmp_path / "mine.pt")
    assert (spec.name, spec.weights) == ("DiT-XL/2", tmp_path / "mine.pt")


def test_architecture_without_public_weights_asks_for_a_checkpoint():
    with pytest.raises(
        UsageError, match=r"no weights of DiT-S/8 .*xl-256, xl-512, sit-256, own.* with --ckpt"
    ):
        find_model("S/8")


def test_a_network_that_is_no_model_is_told_how_to_become_one():
    with pytest.raises(UsageError, match=r"model is of type Linear; expected a name.*FlowModel\(predict=net"):
        find_model(torch.nn.Linear(2, 2))


def test_own_checkpoint_of_a_registered_model_keeps_its_shape_and_defaults(tmp_path):
    (tmp_path / "mine.pt").touch()
    spec = find_model("own", tmp_path / "mine.pt")
    assert spec.weights == tmp_path / "mine.pt"
    assert (spec.config, spec.defaults["cfg"]) == (DiTConfig(**SHAPE), 1.5)


@pytest.mark.parametrize(
    ("name", "near"),
    [("XL/3", " Did you mean XL/8 or XL/4 or XL/2\\?"), ("nope", ""), ("owm", " Did you mean own\\?")],
)
def test_error_for_an_unknown_model_lists_the_nearest_and_the_registered_names(name, near):
    with pytest.raises(
        UsageError,
        match=rf"weights: xl-256, xl-512, sit-256, own; .*: S/8, .*XL/2\)\.{near} A model of your own",
    ):
        find_model(name)
