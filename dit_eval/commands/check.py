"""`dit-eval check`: a regression test for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options
from dit_eval.errors import UsageError

if TYPE_CHECKING:
    from dit_eval.results.check_formats import Format


@click.command()
@click.argument("result", type=options.FILE)
@click.option("--baseline", type=options.FILE, help="JSON of an earlier result.")
@click.option("--published", metavar="NAME", help="Published row, e.g. dit-xl-2-g-1.50.")
@click.option(
    "--tolerance",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="Accepted loss of a metric, e.g. fid=0.1 or precision=2%; can be repeated.  [default: 0]",
)
@click.option(
    "--max-gflops",
    type=click.FloatRange(min=0),
    help="Largest accepted cost of a forward pass, in 1e9 multiply-adds.",
)
@click.option(
    "--min-speed",
    metavar="RATIO",
    type=click.FloatRange(min=0, min_open=True),
    help="Smallest accepted images/s per process, relative to the baseline on the same device, e.g. 0.9.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "junit", "github"]),
    default="text",
    show_default=True,
    help="Output format; github prints annotations and appends Markdown to the step summary.",
)
@click.option("--update", is_flag=True, help="Save RESULT as the new baseline instead of comparing.")
@click.option("--force", is_flag=True, help="Compare results even if they do not measure the same thing.")
@click.pass_context
def check(
    context: click.Context,
    result: Path,
    baseline: Path | None,
    published: str | None,
    tolerance: tuple[str, ...],
    max_gflops: float | None,
    min_speed: float | None,
    style: Format,
    update: bool,
    force: bool,
) -> None:
    """Compare RESULT with a baseline or a published result.

    Exits with 1 if a metric is significantly worse or a limit is not met. Defaults for --baseline,
    --max-gflops, --min-speed and a table of tolerances are read from [tool.dit-eval.check] in pyproject.toml.
    Results that do not measure the same thing are refused.
    """
    from dit_eval.results.check import Tolerance, settings, update_baseline  # imports numpy
    from dit_eval.results.check import check as run_check
    from dit_eval.results.check_formats import as_markdown, render

    defaults = settings(Path.cwd())
    if baseline is None and published is None and "baseline" in defaults:
        baseline = Path(defaults["baseline"])
    if update:
        if baseline is None:
            raise UsageError("--update needs the file to write: --baseline FILE.json.")
        update_baseline(result, baseline)
        click.echo(baseline)
        return
    if min_speed is None and published is None:  # published rows have no speed
        min_speed = defaults.get("min-speed")
    tolerances = defaults.get("tolerance", {}) | _parse_pairs(tolerance)
    report = run_check(
        result,
        baseline,
        published=published,
        tolerances={metric: Tolerance.parse(str(amount)) for metric, amount in tolerances.items()},
        max_gflops=defaults.get("max-gflops") if max_gflops is None else max_gflops,
        min_speed=min_speed,
        force=force,
    )
    click.echo(render(report, style))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if style == "github" and summary:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(as_markdown(report) + "\n")
    context.exit(0 if report.passed else 1)


def _parse_pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        metric, sign, amount = text.partition("=")
        if not sign:
            raise UsageError(f"--tolerance {text!r} is not of the form METRIC=AMOUNT, e.g. fid=0.1.")
        pairs[metric] = amount
    return pairs
