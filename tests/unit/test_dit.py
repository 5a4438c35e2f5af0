"""Shapes, initialisation and dependencies of the DiT."""

from __future__ import annotations

import pytest
import torch

from dit_eval.dit import BLOCKS, DIT, DiT, DiTConfig, build_dit
from dit_eval.dit.blocks import AdaLNZeroBlock
from dit_eval.errors import UsageError

TINY = DiTConfig(depth=2, hidden_size=32, num_heads=2, patch_size=2)


def tiny(block: str = "adaln-zero", *, trained: bool = True, **options) -> DiT:
    """A DiT of two blocks on 8×8 latents; `trained` replaces the zeros of the initialisation."""
    torch.manual_seed(0)
    model = build_dit(TINY, **({"input_size": 8, "num_classes": 10, "block": block} | options)).eval()
    if trained:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 4, 8, 8, generator=generator), torch.arange(n) * 300, torch.tensor([3, 7, 10])[:n])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", DIT)
@torch.no_grad()
def test_every_config_with_every_block_runs(name, block):
    with torch.device("meta"):
        model = build_dit(name, block=block).to("meta")
        x, t, y = torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2, dtype=torch.int64)
    assert model(x, t, y).shape == (2, 8, 32, 32)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "options", [{"input_size": 12}, {"in_channels": 3}, {"num_classes": 2}, {"learn_sigma": False}], ids=str
)
def test_latent_size_channels_and_classes_can_be_chosen(block, options):
    model = tiny(block, **options)
    size, channels = options.get("input_size", 8), options.get("in_channels", 4)
    y = torch.tensor([0, options.get("num_classes", 10)])
    out = model(torch.randn(2, channels, size, size), torch.tensor([1, 2]), y)
    assert out.shape == (2, channels * (2 if options.get("learn_sigma", True) else 1), size, size)


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_a_new_model_predicts_zero(block):
    assert not tiny(block, trained=False)(*inputs()).any()


@torch.no_grad()
def test_a_new_adaln_zero_block_is_the_identity():
    model = tiny(trained=False)
    x, t, y = torch.randn(3, 16, 32), torch.randn(3, 32), torch.randn(3, 32)
    for block in model.blocks:
        assert isinstance(block, AdaLNZeroBlock)
        assert torch.equal(block(x, block.condition(t, y)), x)


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_the_output_depends_on_the_time_and_on_the_class(block):
    model, (x, t, y) = tiny(block), inputs()
    out = model(x, t, y)
    assert (model(x, t + 1, y) - out).abs().amax((1, 2, 3)).min() > 1e-4
    assert (model(x, t, (y + 1) % 11) - out).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_an_image_does_not_depend_on_the_rest_of_the_batch(block):
    model, (x, t, y) = tiny(block).double(), inputs()
    x = x.double()
    torch.testing.assert_close(model(x, t, y)[:1], model(x[:1], t[:1], y[:1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_images_of_one_time_and_class_may_share_their_conditioning(block):
    model, x = tiny(block).double(), inputs(3)[0].double()
    time, classes, rows = torch.tensor([400]), torch.tensor([3, 10]), torch.tensor([0, 1, 0])
    shared = model.denoise(x, model.condition(time, classes).take(rows))
    torch.testing.assert_close(shared, model(x, time.expand(3), classes[rows]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_gets_a_gradient(block):
    model = tiny(block)
    model(*inputs()).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_unpatchify_puts_every_patch_in_its_place():
    model = tiny()
    patches = torch.arange(2 * 2 * 8 * 16).view(1, 16, 32)  # 16 tokens of 2×2 pixels of 8 channels
    image = model._unpatchify(patches)
    assert image[0, :, 2, 5].tolist() == patches[0, 1 * 4 + 2, (0 * 2 + 1) * 8 :][:8].tolist()


@pytest.mark.parametrize("name", ["XL/2", "DiT-XL/2", "dit-xl/2", "SiT-XL/2"])
def test_names_are_taken_with_and_without_their_prefix(name):
    with torch.device("meta"):
        assert build_dit(name).config == DIT["XL/2"]


def test_an_unknown_model_is_answered_with_the_nearest_names():
    with pytest.raises(UsageError, match=r"'XL/3' .*Did you mean XL/8 or XL/4 or XL/2\?$"):
        build_dit("XL/3")
    with pytest.raises(UsageError, match=r"'unet' \(known: S/8, S/4.*\)\.$"):
        build_dit("unet")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_size": 9}, "latents of 9×9 cannot be cut into patches of 2 pixels"),
        ({"block": "adaln0"}, "no block 'adaln0'; the blocks are adaln-zero, adaln"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_dit(TINY, **options)


def test_frequencies_stay_exact_when_the_network_is_cast() -> None:
    dit = build_dit("S/8")
    exact = dit.t_embedder.frequencies.clone()
    for cast in (torch.bfloat16, torch.float64, torch.float32):
        dit.to(cast)
        assert torch.equal(dit.t_embedder.frequencies, exact)
        assert dit.pos_embed.dtype == cast
    assert "t_embedder.frequencies" not in dit.state_dict()
