from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from dit_eval.errors import AssetError
from dit_eval.generation.decode import decode_in_chunks, load_vae
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


@torch.no_grad()
def test_vae_of_a_folder_decodes_scaled_latents_in_any_number(vae):
    network, folder = vae
    decoder = load_vae(str(folder), CPU)
    latents = torch.randn(11, 4, 4, 4)
    images = decode_in_chunks(decoder.decode, latents)
    assert (decoder.factor, images.shape) == (2, (11, 3, 8, 8))
    torch.testing.assert_close(images, network.decode(latents / 0.18215).sample, rtol=0, atol=1e-5)


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
    decoded = load_vae("ema", CPU).decode(latents)
    # Float32 rounding; measured: 7e-7. PyTorch sums differently where weights require no gradient
    torch.testing.assert_close(decoded, network.decode(latents / 0.5).sample, rtol=0, atol=2e-6)


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
        load_vae(str(tmp_path), CPU)


def test_damaged_vae_is_refused(vae, tmp_path):
    _, folder = vae
    (tmp_path / "config.json").write_text((folder / "config.json").read_text("utf-8"), "utf-8")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(AssetError, match="does not hold a VAE that diffusers can load"):
        load_vae(str(tmp_path), CPU)
