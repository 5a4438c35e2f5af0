"""`dit-eval sample`: sample a batch of images from a model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click
import cloup

from dit_eval.commands import options
from dit_eval.commands.progress import sampling_bar
from dit_eval.sampling.options import RANGES

POSITIVE = click.IntRange(min=1)
NPZ, PNG = (options.Output(suffix, new_folder=True) for suffix in (".npz", ".png"))


def _parse_shard(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    """ "2/4" → (2, 4)."""
    match = re.fullmatch(r"(\d+)/(\d+)", value or "")
    if value is not None and match is None:
        raise click.BadParameter(f"{value!r} is not of the form K/N, e.g. 2/4 for the second of four parts.")
    return match and (int(match[1]), int(match[2]))


def _choice(name: str, choices: str, help: str, **attributes: Any) -> Any:
    return click.option(name, type=click.Choice(choices.split()), help=help, **attributes)


def _in_range(name: str) -> click.FloatRange:
    """The type of an option whose numbers have a range, which `generate` requires too."""
    found = RANGES[name]
    return click.FloatRange(
        found.low,
        None if math.isinf(found.high) else found.high,
        min_open=found.low_open,
        max_open=found.high_open,
    )


def _number(
    name: str, help: str, type: click.ParamType = POSITIVE, metavar: str = "N", **attributes: Any
) -> Any:
    return click.option(name, help=help, type=type, metavar=metavar, **attributes)


@cloup.command(context_settings={"show_default": True})
@cloup.option_group(
    "Model",
    click.option(
        "--model",
        metavar="NAME",
        default="XL/2",
        shell_complete=options.completed_by(options.model_names),
        help="Architecture, registered name, plug-in module:function, or diffusers:FOLDER.",
    ),
    options.model_args,
    options.ckpt,
    _number("--image-size", "Size in pixels; 256 or 512 for public models."),
    click.option("--vae", metavar="ema|mse|DIR", help="VAE that decodes the latents.  [default: ema]"),
)
@cloup.option_group(
    "Sampling",
    options.num_samples(default=50_000, metavar="N", help="Number of images."),
    _choice(
        "--sampler",
        "ddpm ddim ode sde meanflow",
        "Sampling algorithm.  [default: ddpm; sde for a SiT; ode for a plug-in's flow]",
    ),
    click.option(
        "--steps",
        metavar="N|ddimN",
        help="Number of sampling steps; ddimN spaces them as DDIM does.  [default: the model's, or 250]",
    ),
    _number("--eta", "Noise added by ddim.  [default: 0]", _in_range("eta"), "X"),
    click.option(
        "--labels",
        metavar="LABELS",
        default="uniform",
        help="uniform, balanced, sorted, a class index, or a text file with one label per image.",
    ),
    _number("--seed", "Random seed.", click.IntRange(min=0), default=0),
)
@cloup.option_group(
    "Guidance",
    _number("--cfg", "Guidance scale; 1 is none.  [default: the model's, or 1]", _in_range("cfg"), "SCALE"),
    _choice("--cfg-channels", "3 all", "Channels that are guided.  [default: 3 for DiT and SiT, else all]"),
    _number("--cfg-interval", "Guide only at noise levels σ in LO … HI.", click.FLOAT, "LO HI", nargs=2),
    click.option(
        "--cfg-times",
        metavar="INTERVAL",
        help='The same in the network\'s time, e.g. "[0, 0.7]"; a parenthesis excludes an end.',
    ),
)
@cloup.option_group(
    "Output",
    click.option("--out", type=NPZ, default="batch.npz", help="The .npz file to write."),
    click.option("--grid", type=PNG, help="Also write a .png of the first 64 images."),
    _choice(
        "--rounding",
        "dit round truncate",
        "From x in -1…1 to uint8: ⌊127.5x + 128⌋, 127.5(x + 1) rounded, or the same truncated.",
        default="dit",
    ),
    options.label,
    click.option("--fresh", is_flag=True, help="Delete an existing batch first."),
)
@cloup.option_group(
    "Performance",
    options.sampling_batch_size,
    options.precision,
    options.compile_network,
    options.device,
    options.threads,
    click.option("--shard", metavar="K/N", callback=_parse_shard, help="Run as part K of N of a job array."),
)
@cloup.option_group(
    "Flows",
    _choice(
        "--solver",
        "euler midpoint heun heun3 rk4 dopri5",
        "Solver of ode (dopri5 is adaptive) or sde (euler, heun).  [default: heun; euler for sde]",
    ),
    _choice(
        "--diffusion",
        "sigma constant sbdm linear decreasing increasing-decreasing kl",
        "Diffusion coefficient of sde as a function of time.  [default: sigma]",
    ),
    _choice(
        "--last-step",
        "mean tweedie euler none",
        "Last step of sde, without noise, or of ode (euler, none).  [default: mean; none for ode]",
    ),
    _number(
        "--last-step-size", "Duration of the last step.  [default: 0.04]", _in_range("last_step_size"), "X"
    ),
    _choice("--path", "linear gvp vp", "Path on which the model was trained.  [default: linear]"),
    _choice("--prediction", "velocity x score noise", "Output of the network.  [default: velocity]"),
    _number("--shift", "Shift of the times, S·t / (1 + (S − 1)·t).  [default: 1]", _in_range("shift"), "S"),
    _choice("--state", "float32 float64", "Precision of the state.  [default: float32]"),
)
def sample(out: Path, grid: Path | None, **settings: Any) -> None:
    """Sample a batch of images and write it to an .npz file.

    Sampling is resumable: rerun the same command after any interruption. Under torchrun, or with --shard in a
    job array, processes share the work, and the last to finish writes the file.
    """
    from dit_eval.generation.pipeline import generate  # torch loads here, so --help stays instant

    with sampling_bar() as progress:
        path = generate(out=out, progress=progress, **settings)
    if not path.exists():
        click.echo(
            f"This process has finished its share; {path} follows when the other processes have finished.",
            err=True,
        )
        return
    if grid is not None:
        from dit_eval.generation.grid import draw_grid

        draw_grid(path, grid)
    click.echo(path)
