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
@click.option("--cfg", type=click.FloatRange(min=0), help="Guidance scale; 1 is none.")
@click.option("--num", type=click.IntRange(min=1), default=50_000, show_default=True, help="Images.")
@click.option("--out", type=click.Path(path_type=Path), default="batch.npz", show_default=True)
@click.option("--image-size", type=click.IntRange(min=1), help="256 or 512 for the public models.")
@click.option("--sampler", type=click.Choice(["ddpm", "ddim"]), default="ddpm", show_default=True)
@click.option("--steps", metavar="N|ddimN", help="Steps of the chain; ddimN spaces them as DDIM does.")
@click.option("--eta", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="DDIM's noise.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option(
    "--labels", metavar="uniform|balanced|CLASS|FILE", default="uniform", show_default=True, help="Classes."
)
@click.option("--cfg-channels", type=click.Choice(["3", "all"]), default="3", show_default=True)
@click.option(
    "--cfg-interval", type=float, nargs=2, metavar="LO HI", help="Guide at noise levels σ in LO … HI."
)
@click.option("--ckpt", metavar="NAME|FILE", help="Weights, if not the registered ones of --model.")
@click.option("--vae", metavar="ema|mse|DIR", help="Decoder of latents.  [default: ema]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16"]), default="fp32", show_default=True)
@click.option("--compile", is_flag=True, help="Compile the network: slow to start, then faster.")
@options.device
@click.option("--shard", type=_Shard(), help="Draw every N-th batch, from the K-th on (K = 1 … N).")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
@click.option("--grid", type=click.Path(path_type=Path), help="Also draw the first images, with labels.")
def sample(out: Path, grid: Path | None, **settings: Any) -> None:
    """Draw a batch of images and write OUT.npz for evaluators to read.

    The same command goes on after an interruption. Started by torchrun, or as parts of a job array
    (--shard), processes share the work; the last to finish writes OUT.
    """
    from dit_eval.generate import generate  # torch loads here, so --help stays instant

    with sampling_bar() as progress:
        path = generate(out=out, progress=progress, **settings)
    if not path.exists():
        click.echo(
            f"Our share is drawn; {path} follows when the other processes have finished theirs.", err=True
        )
        return
    if grid is not None:
        from dit_eval.grid import draw_grid

        draw_grid(path, grid)
    click.echo(path)
