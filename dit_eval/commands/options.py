"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)


class _Output(click.Path):
    """A file to write, in a folder that is there: found out before an hour of work, not after."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{path}: its folder does not exist; make it first.", param, ctx)
        return path


OUTPUT = _Output(dir_okay=False, allow_dash=True, path_type=Path)

inception = click.option(
    "--inception",
    type=FILE,
    envvar="DIT_EVAL_INCEPTION",
    help="Weights of the feature network, .pth or .safetensors, instead of the registered ones.",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
offline = click.option("--offline", is_flag=True, help="Never touch the network; use what is in the cache.")
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images per pass; changes the speed, not the numbers.",
)


def measuring(command: Command) -> Command:
    """The options of every command that extracts features."""
    for option in reversed(
        (
            click.option(
                "--protocol",
                help="adm: as in the papers; clean: clean-fid's resize; digits: of the bundled model.  "
                "[default: the reference's, else adm]",
            ),
            inception,
            batch_size,
            device,
            offline,
        )
    ):
        command = option(command)
    return command
