"""One guided step of DiT: ours against the straightforward formulation and diffusers', on the same weights.

    python benchmarks/dit_forward.py --model S/8 --model B/2 --images 4 --compile

All run in turn, round after round, so that a slow minute of the machine slows them alike; a ratio is the
median of the rounds' ratios, above 1 where ours is faster. Outputs are compared before anything is timed.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import diffusers
import torch
from common import keep
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.dit import DIT, DiT, load_dit, model_name
from dit_eval.dit.blocks import AdaLNZeroBlock
from dit_eval.runtime.malloc import keep_freed_memory_until_exit
from dit_eval.runtime.onednn import Linear
from dit_eval.sampling.guidance import shared_rows

CLASSES = 1000
TIME = 400

Step = Callable[[Tensor], Tensor]


def ours(dit: DiT, labels: Tensor) -> Step:
    """Both passes in one batch; the time is embedded once and the null class conditioned once."""
    classes, rows = shared_rows(labels, CLASSES)
    t = torch.full((1,), TIME, device=labels.device)

    def step(x: Tensor) -> Tensor:
        return dit.denoise(x, dit.condition(t, classes).take(rows))

    return step


def straightforward(dit: DiT, labels: Tensor) -> Step:
    """The textbook's: softmax of q · kᵀ by itself, everything for every row of the doubled batch."""
    dit = with_torchs_layers(dit)
    t = torch.full((2 * len(labels),), TIME, device=labels.device)
    y = torch.cat([labels, torch.full_like(labels, CLASSES)])

    def attention(block: AdaLNZeroBlock, x: Tensor) -> Tensor:
        n, tokens, hidden_size = x.shape
        num_heads = block.attn.num_heads
        q, k, v = (
            block.attn.qkv(x).view(n, tokens, 3, num_heads, hidden_size // num_heads).permute(2, 0, 3, 1, 4)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) * (hidden_size // num_heads) ** -0.5, dim=-1)
        return block.attn.proj((weights @ v).transpose(1, 2).reshape(n, tokens, hidden_size))

    def modulated(x: Tensor, norm: nn.Module, shift: Tensor, scale: Tensor) -> Tensor:
        return norm(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    def step(x: Tensor) -> Tensor:
        x = dit.x_embedder.proj(x).flatten(2).transpose(1, 2) + dit.pos_embed
        c = dit.t_embedder(t) + dit.y_embedder(y)
        for block in dit.blocks:
            assert isinstance(block, AdaLNZeroBlock)
            shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = block.adaLN_modulation(c).chunk(
                6, dim=1
            )
            x = x + gate_msa.unsqueeze(1) * attention(block, modulated(x, block.norm1, shift_msa, scale_msa))
            hidden = F.gelu(
                block.mlp.fc1(modulated(x, block.norm2, shift_mlp, scale_mlp)), approximate="tanh"
            )
            x = x + gate_mlp.unsqueeze(1) * block.mlp.fc2(hidden)
        last = dit.final_layer
        assert last.adaLN_modulation is not None
        x = last.linear(modulated(x, last.norm_final, *last.adaLN_modulation(c).chunk(2, dim=1)))
        side, patch_size = dit.input_size // dit.config.patch_size, dit.config.patch_size
        x = x.view(len(x), side, side, patch_size, patch_size, dit.out_channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), -1, dit.input_size, dit.input_size)

    return step


def with_torchs_layers(dit: DiT) -> DiT:
    """The same weights in nn.Linear."""
    dit = copy.deepcopy(dit)
    for parent in list(dit.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear):
                plain = nn.Linear(child.in_features, child.out_features, device="meta")
                plain.load_state_dict(child.state_dict(), assign=True)
                setattr(parent, name, plain)
    return dit


def theirs(model: DiTTransformer2DModel, labels: Tensor) -> Step:
    """diffusers' own forward of the doubled batch, as its pipeline calls it."""
    t = torch.full((2 * len(labels),), TIME, device=labels.device)
    y = torch.cat([labels, torch.full_like(labels, CLASSES)])

    def step(x: Tensor) -> Tensor:
        return model(x, timestep=t, class_labels=y).sample

    return step


def same_weights(name: str, device: str) -> tuple[DiT, DiTTransformer2DModel]:
    """diffusers' DiT with random weights, and ours loaded from them."""
    config = DIT[name]
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        in_channels=4,
        out_channels=8,
        num_layers=config.depth,
        num_embeds_ada_norm=CLASSES,
        sample_size=32,
        patch_size=config.patch_size,
        norm_eps=1e-6,
    ).eval()
    embedders = [module for module in model.modules() if isinstance(module, CombinedTimestepLabelEmbeddings)]
    for embedder in embedders:
        embedder.load_state_dict(embedders[0].state_dict())
        embedder.time_proj.downscale_freq_shift = 0  # the original's frequencies
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "weights")
        dit = load_dit(Path(folder) / "weights", name, input_size=32, device=device)
        dit.load_state_dict({key: value.clone() for key, value in dit.state_dict().items()}, assign=True)
    nn.Module.to(model, device)
    return dit, model


def seconds(step: Step, x: Tensor) -> float:
    """The time of one call, to the end of the device's work."""
    began = time.perf_counter()
    step(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(steps: dict[str, Step], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each formulation in each round, after one that is not counted."""
    expected = steps["straightforward"](x)
    for name, step in steps.items():
        error = float((step(x) - expected).abs().max() / expected.abs().max())
        assert error < 2e-5, f"{name} differs from the straightforward output by {error:.1e}"
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        order = list(steps) if i % 2 == 0 else list(reversed(steps))
        for name in order:
            times[name].append(seconds(steps[name], x))
    return times


def rows_of(model: str, images: int, times: dict[str, list[float]]) -> list[dict[str, str | int]]:
    """A line for each formulation: its median time, and that time over ours in the same mode and round."""
    rows = []
    for name, taken in times.items():
        mine = times["ours, compiled" if name.endswith("compiled") else "ours"]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(taken, mine, strict=True))
        rows.append(
            {
                "model": model,
                "images": images,
                "formulation": name,
                "milliseconds": f"{1e3 * statistics.median(taken):.2f}",
                "over_ours": f"{ratio:.3f}",
                "rounds": len(taken),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
            }
        )
    return rows


@click.command()
@click.option("--model", "models", multiple=True, default=["S/8", "B/2"], show_default=True)
@click.option(
    "--images", type=click.IntRange(min=1), default=4, show_default=True, help="Before guidance doubles."
)
@click.option("--rounds", type=click.IntRange(min=2), default=10, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Time torch.compile of each formulation too.")
@click.option("--device", default="cpu", show_default=True)
def main(models: tuple[str, ...], images: int, rounds: int, compiled: bool, device: str) -> None:
    """Time one guided step and keep the result as CSV."""
    keep_freed_memory_until_exit()  # for all of them: the setting is the process's
    rows = []
    for model in map(model_name, models):
        dit, peer = same_weights(model, device)
        labels = torch.arange(images, device=device)
        steps = {
            "ours": ours(dit, labels),
            "straightforward": straightforward(dit, labels),
            "diffusers": theirs(peer, labels),
        }
        if compiled:
            blocks_compiled = copy.deepcopy(dit)
            blocks_compiled.compile_blocks()  # as `dit-eval sample --compile` does; the others as a whole
            compiled_steps = {name: torch.compile(step) for name, step in steps.items()}
            compiled_steps["ours"] = ours(blocks_compiled, labels)
            steps |= {f"{name}, compiled": step for name, step in compiled_steps.items()}
        x = torch.randn(images, 4, 32, 32, device=device).repeat(2, 1, 1, 1)
        with torch.inference_mode():
            rows += rows_of(model, images, measure(steps, x, rounds))
    click.echo(keep("dit_forward", rows, device))


if __name__ == "__main__":
    main()
