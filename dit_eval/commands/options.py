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


class Output(click.Path):
    """A file to write: what is wrong with its name is found out before an hour of work, not after.

    suffixes: one of them ends it; dash: standard output is another choice; new_folder: its folder need not be
    there, because the command makes it.
    """

    def __init__(self, *suffixes: str, dash: bool = False, new_folder: bool = False):
        super().__init__(dir_okay=False, allow_dash=dash, path_type=Path)
        self.suffixes, self.new_folder = suffixes, new_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, once its name is found right."""
        path = Path(str(super().convert(value, param, ctx)))
        if self.allow_dash and str(path) == "-":
            return path
        if not self.new_folder and not path.parent.is_dir():
            self.fail(f"{path}: its folder does not exist; make it first.", param, ctx)
        if path.suffix not in self.suffixes:
            self.fail(f"{path}: choose a name that ends in {' or '.join(self.suffixes)}.", param, ctx)
        return path


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
