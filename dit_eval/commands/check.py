"""`dit-eval check`: a regression test for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options
from dit_eval.commands.colour import colour, colour_verdicts
from dit_eval.errors import UsageError

if TYPE_CHECKING:
    from dit_eval.results.check_formats import Format
    from dit_eval.results.check_settings import Amount


def _published_names() -> list[str]:
    from dit_eval.results.published import published_results  # imports numpy

    return list(published_results())


@click.command()
@click.argument("result", type=options.RESULT)
@click.option("--baseline", type=options.FILE, help="JSON of an earlier result.")
@click.option(
    "--published",
    metavar="NAME",
    shell_complete=options.completed_by(_published_names),
    help="Published row, e.g. dit-xl-2-g-1.50.",
)
@click.option(
    "--tolerance",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="Accepted loss of a metric, e.g. fid=0.1 or precision=2%; can be repeated.  [default: 0]",
)
@click.option(
    "--require-power",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="Fail if a loss of this amount would be noticed with a probability below 80 %, e.g. fid=5%; can be "
    "repeated.",
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
@click.option(
    "--update",
    count=True,
    help="Save RESULT as the new baseline; given twice, also if RESULT fails the check against the old one.",
)
@click.option("--force", is_flag=True, help="Compare results even if they do not measure the same thing.")
@click.pass_context
def check(
    context: click.Context,
    result: Path,
    baseline: Path | None,
    published: str | None,
    tolerance: tuple[str, ...],
    require_power: tuple[str, ...],
    max_gflops: float | None,
    min_speed: float | None,
    style: Format,
    update: int,
    force: bool,
) -> None:
    """Compare RESULT with a baseline or a published result.

    Each metric is better, worse, equivalent (the confidence interval of the difference lies within the
    tolerance) or undecided. Exits with 1 if a metric is worse or a limit is not met. The table
    [tool.dit-eval.check] in pyproject.toml holds defaults for --baseline, --tolerance, --require-power,
    --max-gflops and --min-speed. Results that do not measure the same thing are refused.
    """
    from dit_eval.results.check import check as run_check  # imports numpy
    from dit_eval.results.check import update_baseline
    from dit_eval.results.check_formats import as_markdown, render
    from dit_eval.results.check_settings import read_settings

    defaults = read_settings(Path.cwd())
    if baseline is None and published is None:
        baseline = defaults.baseline
    if min_speed is None and published is None:  # published rows have no speed
        min_speed = defaults.min_speed
    settings = {
        "tolerances": {**defaults.tolerance, **_parse_pairs("--tolerance", tolerance)},
        "require_power": {**defaults.require_power, **_parse_pairs("--require-power", require_power)},
        "max_gflops": defaults.max_gflops if max_gflops is None else max_gflops,
        "min_speed": min_speed,
        "force": force,
    }
    if update:
        if baseline is None:
            raise UsageError("--update needs the file to write: --baseline FILE.json.")
        update_baseline(result, baseline, replace_better=update > 1, **settings)
        click.echo(baseline)
        return
    report = run_check(result, baseline, published=published, **settings)
    text = render(report, style)
    click.echo(colour_verdicts(text) if style == "text" else text, color=colour())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if style == "github" and summary:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(as_markdown(report) + "\n")
    context.exit(0 if report.passed else 1)


def _parse_pairs(option: str, texts: tuple[str, ...]) -> dict[str, Amount]:
    from dit_eval.results.check_settings import Amount

    pairs = {}
    for text in texts:
        metric, sign, amount = text.partition("=")
        if not sign:
            raise UsageError(f"{option} {text!r} is not of the form METRIC=AMOUNT, e.g. fid=0.1.")
        pairs[metric] = Amount.parse(amount)
    return pairs
