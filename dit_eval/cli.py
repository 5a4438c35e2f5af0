"""The command line: parse, one call, print. An error is one line and exit 2.

Exit codes: 0 good, 1 a check failed, 2 wrong use or bad input, 130 interrupted.
Results go to standard output, progress and warnings to standard error.
"""

from __future__ import annotations

import sys

import click

from dit_eval.commands.certify import certify
from dit_eval.commands.check import check
from dit_eval.commands.demo import demo
from dit_eval.commands.doctor import doctor
from dit_eval.commands.fid import fid
from dit_eval.commands.flops import flops
from dit_eval.commands.models import models
from dit_eval.commands.plot import plot
from dit_eval.commands.progress import download_bar
from dit_eval.commands.ref import ref
from dit_eval.commands.sample import sample
from dit_eval.commands.stats import stats
from dit_eval.commands.table2 import reproduce, table
from dit_eval.errors import DitEvalError
from dit_eval.io.assets import downloads_shown
from dit_eval.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dit-eval")
@click.pass_context
def main(context: click.Context) -> None:
    """The numbers by which diffusion transformers are judged."""
    context.with_resource(downloads_shown(download_bar))


main.add_command(certify)
main.add_command(check)
main.add_command(demo)
main.add_command(doctor)
main.add_command(fid)
main.add_command(flops)
main.add_command(models)
main.add_command(plot)
main.add_command(ref)
main.add_command(reproduce)
main.add_command(sample)
main.add_command(stats)
main.add_command(table)


def run() -> None:
    """Entry point of the console script: `main`, with our exit codes."""
    try:
        code = main.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except DitEvalError as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("Interrupted.", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
