"""Checkpoints are recognised by content, fit exactly, or are refused with a sentence."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dit_eval.dit import BLOCKS, DIT, build_dit, load_dit
from dit_eval.errors import CheckpointError
from tests.unit.test_dit import TINY, inputs, tiny

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # this checkout, from any folder


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return tiny().state_dict()


def save_bare(weights, path):
    torch.save(weights, path)


def save_training(weights, path):
    other = {key: torch.zeros_like(value) for key, value in weights.items()}
    torch.save(
        {"model": other, "ema": weights, "opt": {"state": {}}, "args": argparse.Namespace(lr=1e-4)}, path
    )


def save_old_format(weights, path):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def save_without_positions(weights, path):
    torch.save({key: value for key, value in weights.items() if key != "pos_embed"}, path)


def save_safetensors(weights, path):
    save_file(weights, path)


@pytest.mark.parametrize(
    "save", [save_bare, save_training, save_old_format, save_without_positions, save_safetensors]
)
def test_every_layout_is_recognised_whatever_its_name(save, weights, tmp_path):
    path = tmp_path / "weights"
    save(weights, path)
    loaded = load_dit(path, TINY, input_size=8).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_block_channels_classes_and_variance_are_inferred_from_the_weights(block, tmp_path):
    model = tiny(block, in_channels=3, num_classes=5, learn_sigma=False)
    torch.save(model.state_dict(), tmp_path / "weights")
    loaded = load_dit(tmp_path / "weights", TINY)
    x, t, _ = inputs()
    y = torch.tensor([0, 2, 5])
    assert torch.equal(loaded(x[:, :3], t, y), model(x[:, :3], t, y))


def test_a_checkpoint_of_a_registered_shape_needs_no_name(tmp_path):
    model = build_dit("S/8", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "weights")
    loaded = load_dit(tmp_path / "weights")
    assert (loaded.config, loaded.input_size) == (model.config, 32)


def test_weights_are_loaded_in_float32_and_frozen(weights, tmp_path):
    torch.save({key: value.bfloat16() for key, value in weights.items()}, tmp_path / "weights")
    loaded = load_dit(tmp_path / "weights", TINY)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_keeps_no_second_copy_in_memory(tmp_path):
    model = build_dit(replace(DIT["S/8"], depth=6), num_classes=10)  # 66 MB
    save_bare(tiny().state_dict(), tmp_path / "small")
    save_bare(model.state_dict(), tmp_path / "bare")
    save_safetensors(model.state_dict(), tmp_path / "safetensors")
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from dit_eval.dit import DiTConfig, load_dit
def private():  # bytes of memory that no file backs
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
load_dit(Path("small"), DiTConfig(depth=2, hidden_size=32, num_heads=2, patch_size=2))  # torch imports late
for name in ("bare", "safetensors"):
    before = private()
    model = load_dit(Path(name), DiTConfig(depth=6, hidden_size=384, num_heads=6, patch_size=8))
    print(private() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert [int(grown) < 0.05 * size for grown in done.stdout.split()] == [True, True]


def test_a_checkpoint_of_another_shape_is_named(tmp_path):
    torch.save(build_dit("S/4", num_classes=100).state_dict(), tmp_path / "weights")
    with pytest.raises(CheckpointError) as refusal:
        load_dit(tmp_path / "weights", "S/2", input_size=32)
    assert "pos_embed is (1, 64, 384) and should be (1, 256, 384)" in str(refusal.value)
    assert "This looks like DiT-S/4 for 32×32 latents with 100 classes." in str(refusal.value)


def test_a_checkpoint_for_another_latent_size_is_named(weights, tmp_path):
    torch.save(weights, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"looks like a DiT of depth 2.* for 8×8 latents"):
        load_dit(tmp_path / "weights", TINY, input_size=16)


def test_missing_and_unexpected_tensors_are_named(weights, tmp_path):
    weights["extra"] = weights.pop("blocks.1.attn.proj.bias")
    torch.save(weights, tmp_path / "weights")
    with pytest.raises(
        CheckpointError, match=r"blocks\.1\.attn\.proj\.bias is missing; extra is not expected\."
    ):
        load_dit(tmp_path / "weights", TINY)


def test_an_unregistered_shape_without_a_config_is_refused(weights, tmp_path):
    torch.save(weights, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"depth 2, hidden size 32, patch size 2 .*: no registered"):
        load_dit(tmp_path / "weights")


class Harmful:
    def __reduce__(self):
        return print, ("this pickle ran",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps(Harmful()), "cannot be read as a checkpoint"),
        (b"not a checkpoint", "cannot be read as a checkpoint"),
        (b"", "cannot be read as a checkpoint"),
        (b"PK\x03\x04 a torn download", "cannot be read as a checkpoint"),
        ((20).to_bytes(8, "little") + b"{ torn safetensors header", "cannot be read as a checkpoint"),
    ],
    ids=["code", "text", "empty", "torn zip", "torn safetensors"],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_never_run(content, sentence, tmp_path, capsys):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        load_dit(tmp_path / "weights", TINY)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.zeros(3)], ids=str)
def test_a_pickle_that_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="does not hold a state dict"):
        load_dit(tmp_path / "weights", TINY)


def test_a_state_dict_of_another_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights")
    with pytest.raises(
        CheckpointError, match=r"does not hold a DiT .*x_embedder.* first tensors found: weight, bias\)"
    ):
        load_dit(tmp_path / "weights", TINY)


def test_a_state_dict_with_other_keys_than_names_is_refused(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="does not hold a state dict"):
        load_dit(tmp_path / "weights", TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"x_embedder.proj.weight": torch.zeros(32, 4, 0, 0)},
        {"y_embedder.embedding_table.weight": torch.tensor(1.0)},
        {"pos_embed": torch.zeros(3)},
        {"blocks.x.attn.qkv.weight": torch.zeros(1)},
        {"blocks.0.adaLN_modulation.1.weight": torch.tensor(1.0)},
    ],
    ids=list,
)
def test_tensors_of_impossible_names_or_shapes_are_refused(change, weights, tmp_path):
    torch.save(weights | change, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="does not hold a DiT"):
        load_dit(tmp_path / "weights", TINY)


def test_a_missing_projection_in_diffusers_layout_is_named(diffusers_dit, tmp_path):
    weights = diffusers_dit.state_dict()
    del weights["transformer_blocks.1.attn1.to_k.weight"]
    torch.save(weights, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.weight is \(64, 32\) and should be"):
        load_dit(tmp_path / "weights", TINY)


def tar_archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"root:x:0:0:root:/root:/bin/bash\nbin:x:1:1:bin:/bin:/bin/false\n",
            "it is a file of unknown format",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html><title>Log in</title></html>", "it is a web page.*Download the file itself"),
        (tar_archive(), "it is a tar archive. Unpack it first"),
        (b"\x1f\x8b\x08", "it is a gzip-compressed file. Unpack it first"),
        (b'{"weight_map": {}}', "it is a JSON file. Pass a file of weights"),
        (
            b"PK\6\7" + struct.pack("<LQL", 1, 0, 2) + b"PK\5\6" + bytes(18),
            "a damaged or incomplete zip archive",
        ),
    ],
    ids=["passwd", "lfs", "html", "tar", "gzip", "json", "one disk of two"],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(content, sentence, tmp_path):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"weights.pt cannot be read as a checkpoint: .*{sentence}"):
        load_dit(tmp_path / "weights.pt", TINY)


def test_a_folder_or_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"it is missing\. Pass a file of weights"):
        load_dit(tmp_path / "weights", TINY)
    with pytest.raises(CheckpointError, match=r"it is a folder\. Pass a file of weights"):
        load_dit(tmp_path, TINY)


@pytest.mark.parametrize("cases", [60, pytest.param(3_000, marks=pytest.mark.simulation)])
@pytest.mark.parametrize("save", [save_bare, save_old_format, save_safetensors])
def test_a_damaged_checkpoint_loads_or_is_refused_with_a_sentence(save, cases, weights, tmp_path):
    save(weights, tmp_path / "whole")
    whole, path, draw = (tmp_path / "whole").read_bytes(), tmp_path / "weights", random.Random(0)
    refused = loaded = 0
    for _ in range(cases):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(1, len(whole))])])
        for _ in range(draw.randint(0, 4)):  # most of them in the first bytes, where the structure is
            damaged[draw.randrange(min(len(damaged), draw.choice([10, 4_000, len(whole)])))] = draw.randrange(
                256
            )
        path.write_bytes(damaged)
        try:
            load_dit(path, TINY)
        except CheckpointError as error:
            refused += len(str(error).splitlines()) == 1
        else:
            loaded += 1
    assert refused + loaded == cases
    assert refused > cases // 4


def test_an_embedder_trained_apart_in_diffusers_is_refused(diffusers_dit, tmp_path):
    weights = diffusers_dit.state_dict()
    weights["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"] += 1
    torch.save(weights, tmp_path / "weights")
    with pytest.raises(
        CheckpointError, match=r"transformer_blocks\.1\.norm1\.emb\..* differs from the first"
    ):
        load_dit(tmp_path / "weights", TINY)


@torch.no_grad()
def test_diffusers_weights_give_diffusers_output(diffusers_dit, tmp_path):
    torch.save(diffusers_dit.state_dict(), tmp_path / "weights")
    model, (x, t, y) = load_dit(tmp_path / "weights", TINY, input_size=8), inputs()
    expected = diffusers_dit(x, timestep=t, class_labels=y).sample
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))


@pytest.fixture
def diffusers_dit():
    """diffusers' DiT of the same shape, with the original's embedding of the time."""
    from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=TINY.num_heads,
        attention_head_dim=TINY.hidden_size // TINY.num_heads,
        in_channels=4,
        out_channels=8,
        num_layers=TINY.depth,
        num_embeds_ada_norm=10,
        sample_size=8,
        patch_size=TINY.patch_size,
        norm_eps=1e-6,  # the default, 1e-5, is not the original's
    ).eval()
    embedders = [module for module in model.modules() if isinstance(module, CombinedTimestepLabelEmbeddings)]
    for embedder in embedders:
        embedder.load_state_dict(embedders[0].state_dict())
        # diffusers spreads the frequencies over half - 1 steps; the original, which trained, over half
        embedder.time_proj.downscale_freq_shift = 0
    return model
