"""`dit-eval check`: a gate for CI."""

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
@click.option("--baseline", type=options.FILE, help="The JSON of an earlier result.")
@click.option("--published", metavar="NAME", help="A row of the papers, e.g. dit-xl-2-g-1.50.")
@click.option(
    "--tolerance",
    "tolerance",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="How much worse a metric may be: fid=0.1, precision=2%.  [default: 0]",
)
@click.option(
    "--max-gflops", type=click.FloatRange(min=0), help="The most multiply-adds of one pass, in 1e9."
)
@click.option(
    "--min-speed",
    metavar="RATIO",
    type=click.FloatRange(min=0, min_open=True),
    help="The least images/s of a process, as a share of the baseline's on the same device: 0.9.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "junit", "github"]),
    default="text",
    show_default=True,
    help="github: annotations, and Markdown in the step summary.",
)
@click.option("--update", is_flag=True, help="Make RESULT the new baseline instead of failing.")
@click.option("--force", is_flag=True, help="Compare what does not measure the same thing, and say so.")
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
    """Is RESULT better, the same or worse than a baseline?

    Exit 1 if a metric is worse or a limit broken. What the options leave open is read from
    [tool.dit-eval.check] in pyproject.toml: baseline, max-gflops, min-speed and a table of tolerances. Two
    results that do not measure the same thing are refused.
    """
    from dit_eval.results.check import Tolerance, settings, update_baseline  # numpy loads here
    from dit_eval.results.check import check as run_check
    from dit_eval.results.check_formats import as_markdown, render

    chosen = settings(Path.cwd())
    if baseline is None and published is None and "baseline" in chosen:
        baseline = Path(chosen["baseline"])
    if update:
        if baseline is None:
            raise UsageError("--update writes a baseline; say which with --baseline FILE.json.")
        update_baseline(result, baseline)
        click.echo(baseline)
        return
    tolerances = {
        **{key: str(value) for key, value in chosen.get("tolerance", {}).items()},
        **_pairs(tolerance),
    }
    if min_speed is None and published is None:  # of which there is no speed
        min_speed = chosen.get("min-speed")
    found = run_check(
        result,
        baseline,
        published=published,
        tolerances={name: Tolerance.parse(str(amount)) for name, amount in tolerances.items()},
        max_gflops=chosen.get("max-gflops") if max_gflops is None else max_gflops,
        min_speed=min_speed,
        force=force,
    )
    click.echo(render(found, style))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if style == "github" and summary:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(as_markdown(found) + "\n")
    context.exit(0 if found.passed else 1)


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for option in options:
        name, sign, amount = option.partition("=")
        if not sign:
            raise UsageError(f"--tolerance {option!r} is not of the form METRIC=AMOUNT, e.g. fid=0.1.")
        pairs[name] = amount
    return pairs
