from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dit_eval.errors import AssetError
from dit_eval.generation.decode import PIXELS, dit_uint8, load_decoder
from dit_eval.io import assets
from tests.tiny import TINY_VAE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A VAE with random weights that doubles the side, in a folder as diffusers saves it."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    network = AutoencoderKL(**TINY_VAE)
    network.save_pretrained(folder)
    return network.eval(), folder


def test_rounding_truncates():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.00392, 0.9999, 1.0, 2.0])
    expected = [0, 0, 128, 128, 255, 255, 255]
    assert dit_uint8(values).tolist() == expected


def test_every_grey_level_begins_where_127_5_x_plus_128_reaches_it():
    levels = torch.arange(1, 256)
    thresholds = (levels - 128) / 127.5
    assert torch.equal(dit_uint8(thresholds - 1e-5).int(), levels - 1)
    assert torch.equal(dit_uint8(thresholds + 1e-5).int(), levels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_one_or_three_channels_become_rgb(channels):
    x = torch.linspace(-1, 1, 2 * channels * 16).view(2, channels, 4, 4)
    images = PIXELS.decode(x)
    assert images.shape == (2, 4, 4, 3)
    assert torch.equal(images[..., 2], dit_uint8(x[:, -1]))


@torch.no_grad()
def test_vae_of_a_folder_decodes_scaled_latents_in_any_number(vae):
    network, folder = vae
    decoder = load_decoder(str(folder), CPU)
    latents = torch.randn(11, 4, 4, 4)
    expected = dit_uint8(network.decode(latents / 0.18215).sample).permute(0, 2, 3, 1)
    images = decoder.decode(latents)
    assert decoder.factor == 2
    assert images.shape == (11, 8, 8, 3)
    difference = np.abs(images.numpy().astype(int) - expected.numpy().astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@torch.no_grad()
def test_registered_vae_with_the_attention_names_of_old_diffusers_is_loaded(vae, tmp_path, monkeypatch):
    network, folder = vae
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): value for key, value in tensors.items()}
    save_file(tensors, tmp_path / "old.safetensors")
    asset = assets.ModelEntry(name="tiny", role="vae", config=TINY_VAE, scale=0.5)
    monkeypatch.setattr(assets, "lookup", lambda *_: asset)
    monkeypatch.setattr(assets, "fetch", lambda _: tmp_path / "old.safetensors")
    latents = torch.randn(2, 4, 4, 4)
    expected = dit_uint8(network.decode(latents / 0.5).sample).permute(0, 2, 3, 1)
    assert torch.equal(load_decoder("ema", CPU).decode(latents), expected)


@pytest.mark.parametrize("name", ["ema", "mse"])
def test_manifest_describes_the_vae_that_diffusers_builds_for_stable_diffusion(name):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    entry = assets.lookup("models", f"sd-vae-ft-{name}")
    with torch.device("meta"):
        network = AutoencoderKL(**entry.config)
    assert network.config["scaling_factor"] == entry.scale == 0.18215
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == 83_653_863  # of the public file: 334,643,276 bytes with its header


def test_folder_without_a_vae_is_refused(tmp_path):
    with pytest.raises(AssetError, match=r"vae .* is neither ema nor mse nor a folder"):
        load_decoder(str(tmp_path), CPU)


def test_damaged_vae_is_refused(vae, tmp_path):
    _, folder = vae
    (tmp_path / "config.json").write_text((folder / "config.json").read_text("utf-8"), "utf-8")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(AssetError, match="does not hold a VAE that diffusers can load"):
        load_decoder(str(tmp_path), CPU)
