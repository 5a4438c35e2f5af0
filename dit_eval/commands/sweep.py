"""`dit-eval sweep`: find the best sampling settings."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import click
import cloup
from click.core import ParameterSource

from dit_eval.commands import options
from dit_eval.commands.progress import print_warnings, sweep_bar, terminal_width
from dit_eval.commands.sample import sample
from dit_eval.errors import did_you_mean
from dit_eval.results.metric_names import HEADLINE
from dit_eval.search.settings import MODEL_ARGUMENT, VARIABLE, split_values

# Of `sample`, what does not describe a search: where its one batch goes, and how it is shared
_NOT_TAKEN = ("out", "grid", "label", "fresh", "shard")
_SAMPLING = [option for option in sample.params if option.name not in _NOT_TAKEN]
_BY_NAME = {option.name: option for option in _SAMPLING}
_POSSIBLE = [name for name in VARIABLE if name in _BY_NAME]
_PAIR = 2  # numbers of an interval
_FORM = "Separate values by commas, or give START:STOP:STEP, e.g. cfg=1.0,1.5 or cfg=1.0:3.0:0.25."


def _sampling_options(command: options.Command) -> options.Command:
    """Copies of the options of `sample`, in groups of their own, which cloup fills for each command."""
    groups: dict[str, Any] = {}
    copies = [copy(option) for option in _SAMPLING]
    for option in copies:
        if group := getattr(option, "group", None):
            option.group = groups.setdefault(group.title, copy(group))  # type: ignore[attr-defined]
    command.__dict__.setdefault("__click_params__", []).extend(reversed(copies))  # read from the last one
    return command


def _parse_vary(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, list[Any]]:
    """ "NAME=VALUES" texts as the values of each setting, converted as the options of `sample` are."""
    vary = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not name or not values.strip():
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUES. {_FORM}")
        if name not in _POSSIBLE and not (
            name.startswith(MODEL_ARGUMENT) and name.removeprefix(MODEL_ARGUMENT).isidentifier()
        ):
            spelled = [possible.replace("_", "-") for possible in _POSSIBLE]
            raise click.BadParameter(
                f"{text!r} does not name a setting that can vary. Choose among {', '.join(spelled)}, or "
                f"{MODEL_ARGUMENT}KEY for an argument of a plug-in."
                + did_you_mean(name.replace("_", "-"), spelled)
            )
        if name in vary:
            raise click.BadParameter(f"{name} is given twice; list all of its values once.")
        try:
            vary[name] = [_convert(name, value, context) for value in split_values(values)]
        except click.BadParameter as error:
            raise click.BadParameter(f"{text!r}: {error.message} {_FORM}") from None
    return vary


def _convert(name: str, value: str, context: click.Context) -> Any:
    """A value as the option of `sample` gives it; "none" for guidance everywhere."""
    if name.startswith(MODEL_ARGUMENT):
        return options.model_argument(value)
    option = _BY_NAME[name]
    if name in ("cfg_interval", "cfg_times") and value == "none":
        return None
    parts = value.split() if option.nargs == _PAIR else [value]
    if len(parts) != option.nargs:
        raise click.BadParameter(f"{value!r} is not an interval of two numbers, such as '0.3 5', or none.")
    converted = tuple(option.type.convert(part, option, context) for part in parts)
    return converted if option.nargs == _PAIR else converted[0]


@cloup.command(context_settings={"show_default": True})
@cloup.option_group(
    "Search",
    click.option("--against", metavar="REF", required=True, help="The reference, as for `dit-eval fid`."),
    click.option(
        "--vary",
        metavar="NAME=VALUES",
        multiple=True,
        required=True,
        callback=_parse_vary,
        help="Values of an option of `sample`: separated by commas, or START:STOP:STEP, stop included. "
        'Repeat for other options. Intervals: "cfg_interval=none,0.3 5". Arguments of models: model.KEY.',
    ),
    click.option("--metric", type=options.Name(HEADLINE), default="fid", help="Metric that is compared."),
    click.option(
        "--strategy",
        type=click.Choice(["grid", "coordinate"]),
        default="grid",
        help="All combinations, or one setting after another.",
    ),
    click.option(
        "--first",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images of each candidate in the first round.  [default: a sixteenth of --num-samples]",
    ),
    click.option(
        "--budget",
        metavar="IMAGES|HOURSh",
        help="Most images, or hours of sampling of all GPUs together (24h).  [default: no limit]",
    ),
    click.option("--out", type=options.FOLDER, default="sweep", help="Output folder."),
)
@cloup.option_group(
    "Evaluation",
    click.option(
        "--protocol", metavar="NAME", help="Evaluation protocol.  [default: the reference's, else adm]"
    ),
    options.inception,
    options.offline,
)
@_sampling_options
@click.pass_context
def sweep(
    context: click.Context, out: Path, against: str, vary: dict[str, list[Any]], **settings: Any
) -> None:
    """Find the best sampling settings with few images.

    All candidates sample the same images, from the same noise and labels. After each round, those that are
    worse than the best with 95 % confidence are dropped, and the others go on to twice the images, up to
    --num-samples. The winner is measured on as many fresh images, from the next random seed.

    Prints a table and a paragraph for a paper. OUT holds batches, results, sweep.json and a figure,
    sweep.png. Resumable: rerun the same command after any interruption, also under torchrun.
    """
    from dit_eval.report.sweep_figure import plot_sweep  # imports matplotlib
    from dit_eval.search.pipeline import sweep as run_sweep  # imports torch

    for name in vary:  # what stands there is the default of `sample`
        if context.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            settings.pop(name, None)
    with sweep_bar() as progress:
        found = run_sweep(
            settings.pop("model", None), against=against, vary=vary, out=out, progress=progress, **settings
        )
    if found is None:  # a rank other than 0
        return
    print_warnings(found.warnings)
    plot_sweep(out / "sweep.png", found)
    click.echo(found.table(width=terminal_width()))
