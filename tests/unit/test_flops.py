"""Costs: against torch's own counter, against a closed formula, against the paper."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from decimal import Decimal

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

import dit_eval
from dit_eval.cli import main
from dit_eval.cost import counter as flops
from dit_eval.cost.counter import count_decoder, count_flops
from dit_eval.cost.table import FlopRow, flop_rows
from dit_eval.dit import BLOCKS, DIT, DiTConfig, build_dit
from dit_eval.errors import CostError, UsageError
from dit_eval.results.published import published_gflops

SD_VAE = {  # the decoder of stabilityai/sd-vae-ft-ema and -mse, as their config.json says
    "in_channels": 4,
    "out_channels": 3,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}


def counted_by_torch(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-adds by torch's dispatcher-level counter, which counts each as two."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def closed_formula(config: DiTConfig, size: int, block: str) -> int:
    """The same by hand, from the layers' widths."""
    d, tokens, sequence = (
        config.hidden_size,
        (size // config.patch_size) ** 2,
        (size // config.patch_size) ** 2,
    )
    if block == "in-context":
        sequence += 2
    per_block = 12 * d * d * sequence + 2 * sequence**2 * d  # qkv, proj, MLP; the two products
    if block == "cross-attention":  # query and output for each token, key and value for two, both products
        per_block += 2 * d * d * tokens + 2 * d * d * 2 + 2 * tokens * 2 * d
    vectors = {"adaln-zero": 6, "adaln": 4}.get(block, 0)  # regressed in each block
    ends = tokens * (4 + 8) * config.patch_size**2 * d + 256 * d + d * d  # patches in and out; t
    return config.depth * (per_block + vectors * d * d) + ends + (2 * d * d if vectors else 0)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("model", "image_size"), [*((model, 256) for model in DIT), ("XL/2", 512)])
def test_macs_are_those_of_the_closed_formula(model, image_size, block):
    count = count_flops(model, image_size=image_size, block=block)
    assert count.macs == closed_formula(DIT[model], image_size // 8, block)
    assert count.flops == 2 * count.macs


@pytest.mark.parametrize("block", BLOCKS)
def test_macs_and_parameters_are_those_of_the_whole_model_by_torchs_counter(block):
    with torch.device("meta"):
        model = build_dit("B/4", block=block).to("meta")
        inputs = torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64)
    count = count_flops("B/4", block=block)
    assert count.macs == counted_by_torch(model, *inputs)
    assert count.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize(("input_size", "in_channels"), [(8, 1), (10, 3), (32, 4)])
def test_macs_of_a_model_of_any_input_and_output_are_those_of_torchs_counter(
    input_size, in_channels, learn_sigma
):
    options = {
        "input_size": input_size,
        "in_channels": in_channels,
        "num_classes": 10,
        "learn_sigma": learn_sigma,
    }
    with torch.device("meta"):
        model = build_dit("S/2", **options).to("meta")
        size = (1, in_channels, input_size, input_size)
        inputs = torch.empty(size), torch.empty(1), torch.empty(1, dtype=torch.int64)
    count = count_flops("S/2", **options)
    assert count.macs == counted_by_torch(model, *inputs)
    assert count.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("image_size", [256, 512])
def test_macs_of_the_decoder_are_those_of_torchs_counter(image_size):
    from diffusers.models.autoencoders.vae import Decoder

    with torch.device("meta"):
        decoder = torch.nn.Sequential(torch.nn.Conv2d(4, 4, kernel_size=1), Decoder(**SD_VAE))
        latents = torch.empty(1, 4, image_size // 8, image_size // 8)
    assert count_decoder(image_size).macs == counted_by_torch(decoder, latents)


def test_attention_grows_with_the_square_of_the_tokens_and_conditioning_not_at_all():
    small, large = (count_flops("S/4", image_size=size).by_operator for size in (256, 512))
    assert large["attention"] == 16 * small["attention"]
    assert large["convolution"] == 4 * small["convolution"]
    assert large["conditioning"] == small["conditioning"]


@pytest.mark.parametrize(("model", "millions"), [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675)])
def test_parameters_are_the_papers(model, millions):
    assert round(count_flops(model).params / 1e6) == millions


def test_every_figure_of_the_paper_is_met_to_its_last_digit_or_explained_by_a_note():
    published = published_gflops()
    assert len(published) == 10
    noted = {}
    for (model, block, image_size), figure in published.items():
        row = FlopRow(
            model=model,
            block=block,
            image_size=image_size,
            count=count_flops(model, image_size=image_size, block=block),
            published=figure,
        )
        unit = Decimal(1).scaleb(int(figure.as_tuple().exponent))
        assert abs(row.difference or 0) < max(unit, Decimal("0.1"))
        if note := row.note():
            noted[model, block, image_size] = note
    assert noted.keys() == {("XL/4", "adaln-zero", 256), ("XL/2", "adaln", 256)}
    assert all("which rounds to the paper's" in note for note in noted.values())


def test_a_difference_that_layer_norm_does_not_explain_is_said_to_be_unexplained():
    row = replace(flop_rows()[0], published=Decimal("0.5"))
    assert "does not explain the difference" in (row.note() or "")


def test_an_operator_without_a_registered_cost_is_an_error(monkeypatch):
    monkeypatch.setattr(flops, "FREE", tuple(name for name in flops.FREE if name != "gelu"))
    flops._trace_dit.cache_clear()
    with pytest.raises(CostError, match="aten::gelu is unknown"):
        count_flops("S/8")


def test_an_operator_that_fvcore_counts_under_a_name_of_its_own_is_an_error_too(monkeypatch):
    monkeypatch.setattr(flops, "COUNTED", {"attention", "conv"})
    flops._trace_dit.cache_clear()
    with pytest.raises(CostError, match="cost of linear is unknown"):
        count_flops("S/8")


def test_the_public_name_counts_a_model_of_ones_own():
    tiny = DiTConfig(depth=3, hidden_size=32, num_heads=2, patch_size=2)
    count = dit_eval.count_flops(tiny, image_size=64, block="adaln")
    assert count.macs == closed_formula(tiny, 8, "adaln")
    assert set(count.by_operator) == {"attention", "linear", "convolution", "conditioning"}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"model": "XL/3"}, "Did you mean"),
        ({"model": "S/8", "image_size": 250}, "multiple of 8"),
        ({"model": "S/8", "image_size": 40}, "cannot be cut into patches"),
        ({"model": "S/8", "block": "film"}, "the blocks are"),
        ({"model": "S/8", "image_size": 0}, "image_size is 0"),
        ({"model": "S/8", "image_size": 256.0}, "image_size is 256.0"),
        ({"model": "S/8", "input_size": -8}, "input_size is -8"),
        ({"model": "S/8", "in_channels": 0}, "in_channels is 0"),
    ],
)
def test_what_cannot_be_counted_is_refused(facts, sentence):
    with pytest.raises(UsageError, match=sentence):
        count_flops(**facts)


def table(*options: str) -> str:
    done = CliRunner().invoke(main, ["flops", "table", *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_json_and_csv_hold_the_same_twelve_rows_of_exact_numbers():
    rows = json.loads(table("--format", "json"))["rows"]
    lines = list(csv.DictReader(io.StringIO(table("--format", "csv"))))
    assert [row["model"] for row in rows] == list(DIT)
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == lines
    assert rows[-1]["macs"] == count_flops("XL/2").macs


def test_a_sampled_image_costs_its_steps_and_the_decoder():
    row = json.loads(table("--format", "json"))["rows"][0]
    decoder = count_decoder(256).macs
    assert row["macs_per_image"] == 250 * row["macs"] + decoder
    assert row["macs_per_guided_image"] == 500 * row["macs"] + decoder


def test_all_blocks_are_the_four_variants_of_xl_2():
    rows = json.loads(table("--block", "all", "--format", "json"))["rows"]
    assert [(row["model"], row["block"]) for row in rows] == [("XL/2", block) for block in BLOCKS]


@pytest.mark.parametrize("block", ["adaln-zero", "all"])
def test_text_shows_every_cell_of_markdown_in_80_columns(block):
    text = table("--block", block)
    rows, notes = table("--block", block, "--format", "markdown").split("\n\n")
    cells = {cell.strip() for line in rows.splitlines() for cell in line.strip("|").split("|")}
    headings_of_what_is_common = {"model"} if block == "all" else {"block"}
    assert {cell for cell in cells - {"---", "---:"} if cell not in text} == headings_of_what_is_common
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(notes.removeprefix("- ").replace("\n- ", " ").split()) in " ".join(text.split())
