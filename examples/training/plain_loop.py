"""Online evaluation in a plain training loop: a small DiT on the bundled digits, with TensorBoard.

    python plain_loop.py --steps 300 --every 100
    torchrun --nproc-per-node 2 plain_loop.py

The evaluation changes nothing of the training: losses and weights are the same with `--every 0`.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter

import dit_eval
from dit_eval.dit import DiTConfig, build_dit
from dit_eval.evaluation.references import open_reference

CONFIG = DiTConfig(depth=2, hidden_size=64, num_heads=2, patch_size=4)
BATCH = 64


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The bundled digits in -1 … 1, (1797, 1, 8, 8), and their classes."""
    images = open_reference("digits").images
    assert images is not None
    pixels = np.concatenate(list(images.blocks(1000)))[..., :1]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, torch.as_tensor(images.labels())


@click.command()
@click.option("--steps", default=300, show_default=True)
@click.option("--every", default=100, show_default=True, help="Steps between evaluations; 0 for none.")
@click.option("--images", "num", default=500, show_default=True, help="Images per evaluation.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("run"), show_default=True)
def main(steps: int, every: int, num: int, folder: Path) -> None:
    """Train a flow model of the digits and evaluate its averaged weights."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(rank)
    images, classes = digits()
    net = build_dit(CONFIG, input_size=8, in_channels=1, num_classes=10, learn_sigma=False)
    if dist.is_initialized():
        for parameter in net.parameters():
            dist.broadcast(parameter.data, 0)
    ema = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    model = dit_eval.FlowModel(ema, shape=(1, 8, 8), num_classes=10, null_class=10)
    evaluator = dit_eval.Evaluator("digits") if every else None
    writer, losses = SummaryWriter(folder) if rank == 0 else None, []

    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (BATCH,))
        x, t, noise = images[chosen], torch.rand(BATCH), torch.randn(BATCH, 1, 8, 8)
        y = classes[chosen].masked_fill(torch.rand(BATCH) < 0.1, 10)
        mixed = t[:, None, None, None] * x + (1 - t[:, None, None, None]) * noise
        loss = F.mse_loss(net(mixed, t, y), x - noise)
        optimizer.zero_grad()
        loss.backward()
        if dist.is_initialized():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        optimizer.step()
        losses.append(float(loss))
        with torch.no_grad():
            for average, parameter in zip(ema.parameters(), net.parameters(), strict=True):
                average.lerp_(parameter, 0.01)
        if evaluator and step % every == 0:
            dit_eval.generate(model, into=evaluator, num=num, steps=10, batch_size=100)
            result = evaluator.compute()
            if writer:
                for name, value in result.scalars("eval/").items():
                    writer.add_scalar(name, value, step)
                click.echo(f"step {step}: loss {loss:.4f}, FID {result.metrics['fid']:.2f}")
    if rank == 0:
        torch.save({"weights": net.state_dict(), "losses": torch.tensor(losses)}, folder / "last.pt")


if __name__ == "__main__":
    main()
