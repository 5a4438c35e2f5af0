"""`dit-eval sample`: options to one call of `generate`, and how far it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import sampling_bar


class _Shard(click.ParamType):
    name = "K/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """ "2/4" → (2, 4)."""
        if isinstance(value, tuple):
            return value
        if match := re.fullmatch(r"(\d+)/(\d+)", value):
            return int(match[1]), int(match[2])
        return self.fail(f"{value!r} is not of the form K/N, e.g. 2/4 for the second of four.", param, ctx)


@click.command()
@click.option("--model", default="XL/2", show_default=True, help="Architecture or registered model.")
@click.option(
    "--cfg", type=click.FloatRange(min=0), help="Guidance scale; 1 is none.  [default: the model's, or 1]"
)
@click.option("--num", type=click.IntRange(min=1), default=50_000, show_default=True, help="How many images.")
@click.option(
    "--out",
    type=options.Output(".npz", new_folder=True),
    default="batch.npz",
    show_default=True,
    help="The .npz to write.",
)
@click.option("--image-size", type=click.IntRange(min=1), help="256 or 512 for the public models.")
@click.option(
    "--sampler",
    type=click.Choice(["ddpm", "ddim", "ode", "sde"]),
    help="ddpm and ddim are for a DiT, ode and sde for a SiT.  [default: ddpm, of a SiT sde]",
)
@click.option(
    "--steps",
    metavar="N|ddimN",
    help="Of the chain; ddimN spaces them as DDIM does.  [default: the model's, or 250]",
)
@click.option("--eta", type=click.FloatRange(0, 1), help="Noise of ddim.  [default: 0]")
@click.option(
    "--solver",
    type=click.Choice(["euler", "midpoint", "heun", "heun3", "rk4", "dopri5"]),
    help="Of ode (dopri5 chooses its steps) and sde (euler, heun).  [default: heun, of sde euler]",
)
@click.option(
    "--diffusion",
    type=click.Choice(["sigma", "constant", "sbdm", "linear", "decreasing", "increasing-decreasing", "kl"]),
    help="Noise of sde over time.  [default: sigma]",
)
@click.option(
    "--last-step",
    type=click.Choice(["mean", "tweedie", "euler", "none"]),
    help="Of sde, without noise.  [default: mean]",
)
@click.option(
    "--last-step-size",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Where it starts, counted back from 1.  [default: 0.04]",
)
@click.option(
    "--path",
    type=click.Choice(["linear", "gvp", "vp"]),
    help="From noise to data, as a SiT was trained.  [default: linear]",
)
@click.option(
    "--prediction",
    type=click.Choice(["velocity", "score", "noise"]),
    help="What a SiT was trained to give.  [default: velocity]",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of noise and labels."
)
@click.option(
    "--labels",
    metavar="uniform|balanced|CLASS|FILE",
    default="uniform",
    show_default=True,
    help="Classes, of a file one number for each image.",
)
@click.option(
    "--cfg-channels",
    type=click.Choice(["3", "all"]),
    default="3",
    show_default=True,
    help="What guidance changes: 3, as in the papers, or all.",
)
@click.option(
    "--cfg-interval", type=float, nargs=2, metavar="LO HI", help="Guide at noise levels σ in LO … HI."
)
@click.option("--ckpt", metavar="NAME|FILE", help="Weights, if not the registered ones of --model.")
@click.option("--vae", metavar="ema|mse|DIR", help="Decoder of latents.  [default: ema]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images drawn together."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the network.",
)
@click.option("--compile", is_flag=True, help="Compile the network: slow to start, then faster.")
@options.device
@click.option("--shard", type=_Shard(), help="Draw every N-th batch, from the K-th on (K = 1 … N).")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
@click.option(
    "--grid", type=options.Output(".png", new_folder=True), help="Also draw the first images, with labels."
)
def sample(out: Path, grid: Path | None, **settings: Any) -> None:
    """Draw a batch of images into OUT, an .npz for evaluators.

    The same command goes on after an interruption. Started by torchrun, or as parts of a job array
    (--shard), processes share the work; the last to finish writes OUT.
    """
    from dit_eval.generation.pipeline import generate  # torch loads here, so --help stays instant

    with sampling_bar() as progress:
        path = generate(out=out, progress=progress, **settings)
    if not path.exists():
        click.echo(
            f"Our share is drawn; {path} follows when the other processes have finished theirs.", err=True
        )
        return
    if grid is not None:
        from dit_eval.generation.grid import draw_grid

        draw_grid(path, grid)
    click.echo(path)
