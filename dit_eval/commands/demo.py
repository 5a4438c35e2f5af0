"""`dit-eval demo`: the whole of it on the bundled digits, in about a minute."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar, sampling_bar
from dit_eval.commands.table2 import print_table
from dit_eval.results.result import Result

_NEXT = """
The same for ImageNet, on GPUs; it downloads DiT-XL/2, its VAE, the Inception and ADM's reference:

    torchrun --nproc-per-node 8 -m dit_eval reproduce table2 --out table2

or step by step: dit-eval sample --model XL/2 --cfg 1.5, then dit-eval fid batch.npz imagenet-256."""


_MODELS = ("digits", "digits-sit")


@click.command()
@click.option("--out", type=options.FOLDER, default="demo", show_default=True, help="Folder to write.")
@options.device
def demo(out: Path, device: str) -> None:
    """Draw digits with the bundled DiT and SiT and measure them.

    At three guidance scales. Prints the numbers in the form of the paper's table 2; OUT holds batches,
    results, pictures of the samples and the report. Nothing is downloaded. Interrupted, the same command goes
    on.
    """
    from dit_eval.diagnostics.reproduce import measure_guidance
    from dit_eval.generation.grid import draw_grid  # torch loads here, so --help stays instant
    from dit_eval.report.page import write_report

    click.echo("Drawing digits with two models at three guidance scales: a minute on two cores.", err=True)
    bars = {"drawing": sampling_bar, "measuring": partial(progress_bar, "images")}
    results: list[Result] = []
    for model in _MODELS:
        found = measure_guidance(out / model, model=model, device=device, **bars)
        if found is None:  # a rank other than 0
            continue
        for result in found:
            batch = Path(result.samples["path"])
            draw_grid(batch, batch.with_suffix(".png"))
        results += found
    if not results:
        return
    write_report(out / "report.html", results, title="The same network as DiT and as SiT")
    print_table(results, paper=False)
    click.echo(f"\nSamples: {', '.join(str(out / model / 'cfg-*.png') for model in _MODELS)}")
    click.echo(f"The report: {out / 'report.html'}")
    click.echo(_NEXT)
