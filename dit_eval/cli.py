"""The command line: the table of commands, error handling and exit codes.

Exit codes: 0 good, 1 a check failed, 2 wrong use or bad input, 70 internal error, 130 interrupted.
Results go to standard output, progress and warnings to standard error.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Any

import click

from dit_eval.commands.cache import cache
from dit_eval.commands.certify import certify
from dit_eval.commands.check import check
from dit_eval.commands.compare import compare
from dit_eval.commands.demo import demo
from dit_eval.commands.doctor import doctor
from dit_eval.commands.fdr6 import fdr6
from dit_eval.commands.fid import fid
from dit_eval.commands.flops import flops
from dit_eval.commands.models import models
from dit_eval.commands.plot import plot
from dit_eval.commands.progress import download_bar
from dit_eval.commands.ref import ref
from dit_eval.commands.sample import sample
from dit_eval.commands.stats import stats
from dit_eval.commands.sweep import sweep
from dit_eval.commands.table2 import reproduce, table
from dit_eval.errors import DitEvalError, DitEvalWarning, ModelError
from dit_eval.io.assets import downloads_shown
from dit_eval.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dit-eval")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:
    """Sample from diffusion transformers and evaluate the images: FID, sFID, IS, precision and recall."""
    context.ensure_object(dict)["debug"] = debug
    context.with_resource(downloads_shown(download_bar))
    warnings.showwarning = _show_warning


for command in (
    cache,
    certify,
    check,
    compare,
    demo,
    doctor,
    fdr6,
    fid,
    flops,
    models,
    plot,
    ref,
    reproduce,
    sample,
    stats,
    sweep,
    table,
):
    main.add_command(command)


def _show_warning(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
    """Print warnings about the user's input as a sentence, and others as Python does."""
    if issubclass(category, DitEvalWarning):
        click.echo(f"Warning: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, *details[:2]), err=True, nl=False)


def run() -> None:
    """Entry point of the console script: run `main` and exit with the documented codes."""
    state = {"debug": False}
    try:
        code = main.main(prog_name="dit-eval", standalone_mode=False, obj=state)
    except click.ClickException as error:
        error.show()
        code = 2
    except DitEvalError as error:
        if isinstance(error, ModelError) and error.__cause__:  # raised by the user's own code
            traceback.print_exception(error.__cause__)
        click.echo(f"Error: {error}", err=True)
        code = 2
    except (KeyboardInterrupt, click.exceptions.Abort) as error:
        click.echo(_interruption(error), err=True)
        code = 130
    except Exception as error:
        if state["debug"]:
            traceback.print_exc()
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(
            f"Internal error: {summary}; this is a bug in dit-eval, please report it with the output of the "
            "same command with --debug (dit-eval --debug COMMAND …).",
            err=True,
        )
        code = 70
    sys.exit(code if isinstance(code, int) else 0)


def _interruption(error: BaseException) -> str:
    """How far an interrupted command was, if it is one that can be resumed and has noted it."""
    notes = getattr(error.__cause__ or error, "__notes__", [])  # click raises Abort from KeyboardInterrupt
    return " ".join(["Interrupted.", *notes, *(["Run the same command again to resume."] if notes else [])])
