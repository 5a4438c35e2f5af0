"""`dit-eval demo`: sampling, evaluation and report on the bundled digits, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, print_warnings, sampling_bar
from dit_eval.commands.table2 import print_table

if TYPE_CHECKING:
    from dit_eval.results.result import Result

_MODELS = ("digits", "digits-sit")

_NEXT = """
The same for ImageNet, on GPUs (downloads DiT-XL/2, its VAE, the Inception weights and ADM's reference):

    torchrun --nproc-per-node 8 -m dit_eval reproduce table2 --out table2

or step by step: dit-eval sample --model XL/2 --cfg 1.5, then dit-eval fid batch.npz imagenet-256."""


@click.command()
@click.option("--out", type=options.FOLDER, default="demo", show_default=True, help="Output folder.")
@options.num_samples(help="Images per batch.  [default: 500]")
@options.device
@options.sampling_performance
def demo(out: Path, **settings: Any) -> None:
    """Sample digits with the bundled DiT and SiT and evaluate them.

    Samples at three guidance scales and prints a table in the style of table 2 of the DiT paper. OUT holds
    the batches, results, sample grids and an HTML report. Downloads nothing. Resumable: rerun the same
    command after any interruption.
    """
    from dit_eval.diagnostics.reproduce import evaluate_guidance_scales  # imports torch
    from dit_eval.generation.grid import draw_grid
    from dit_eval.report.page import write_report

    click.echo("Sampling with two models at three guidance scales, about a minute on two cores.", err=True)
    settings |= {"sampling_progress": sampling_bar, "evaluation_progress": extraction_bar}
    settings["command"] = options.command_line()
    results: list[Result] = []
    for model in _MODELS:
        for result in evaluate_guidance_scales(out / model, model=model, **settings) or ():
            batch = Path(result.samples["path"])
            draw_grid(batch, batch.with_suffix(".png"))
            results.append(result)
    if not results:  # a rank other than 0
        return
    write_report(out / "report.html", results, title="The same network as DiT and as SiT")
    print_warnings(warning for result in results for warning in result.warnings)
    print_table(results, paper=False)
    click.echo(f"\nSamples: {', '.join(str(out / model / 'cfg-*.png') for model in _MODELS)}")
    click.echo(f"Report: {out / 'report.html'}")
    click.echo(_NEXT)
