"""Options shared by several commands."""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)


class _PathOrAddress(click.Path):
    """A path, or text that begins with https:// or hf://."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        from dit_eval.io.addresses import is_address

        return value if is_address(value) else Path(str(super().convert(value, param, ctx)))


PATH_OR_ADDRESS = _PathOrAddress(path_type=Path)


class Output(click.Path):
    """A file to write, whose name is checked before any work is done.

    suffixes: the accepted ones; dash: also accept - for standard output; new_folder: the parent folder may be
    missing because the command creates it.
    """

    def __init__(self, *suffixes: str, dash: bool = False, new_folder: bool = False):
        super().__init__(dir_okay=False, allow_dash=dash, path_type=Path)
        self.suffixes, self.new_folder = suffixes, new_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if its name is acceptable."""
        path = Path(str(super().convert(value, param, ctx)))
        if self.allow_dash and str(path) == "-":
            return path
        if not self.new_folder and not path.parent.is_dir():
            self.fail(f"{path}: its folder does not exist; create it first.", param, ctx)
        if path.suffix not in self.suffixes:
            self.fail(f"{path}: choose a name that ends in {' or '.join(self.suffixes)}.", param, ctx)
        return path


label = click.option("--label", metavar="TEXT", help="Name in tables and reports.")
inception = click.option(
    "--inception",
    type=FILE,
    help="Weights of the feature network (.pth or .safetensors), instead of the registered file.  "
    "[default for protocols with the Inception: $DIT_EVAL_INCEPTION]",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device to compute on.",
)
sampling_batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=32,
    show_default=True,
    help="Images sampled at a time.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Compute precision of the network.  [default: tf32 on a GPU, fp32 on a CPU]",
)
compile_network = click.option(
    "--compile", is_flag=True, help="Compile the blocks of the network with torch.compile."
)
offline = click.option("--offline", is_flag=True, help="Do not use the network; use cached files only.")
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images per forward pass; affects speed, not results.",
)


def _parse_model_args(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    """ "KEY=VALUE" texts as a dict; numbers, booleans and None as such, everything else as text."""
    arguments = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE, e.g. ckpt=last.pt.")
        with suppress(ValueError, SyntaxError):
            literal = ast.literal_eval(value)
            if isinstance(literal, (int, float, bool, type(None))):
                value = literal
        arguments[key] = value
    return arguments


model_args = click.option(
    "--model-arg",
    "model_args",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_parse_model_args,
    help="Argument of a plug-in's function; can be repeated. Numbers and booleans are passed as such.",
)


def command_line() -> str:
    """The command that is running, for a shell; the same under torchrun and `python -m dit_eval`."""
    return shlex.join(["dit-eval", *sys.argv[1:]])


def num_samples(**attributes: Any) -> Callable[[Command], Command]:
    """The option --num-samples, passed to the command as `num`; --num is kept as a hidden alias.

    torchrun takes --num for an abbreviation of one of its own options.
    """

    def add_options(command: Command) -> Command:
        for name, hidden in (("--num", True), ("--num-samples", False)):
            option = click.option(name, "num", type=click.IntRange(min=1), hidden=hidden, **attributes)
            command = option(command)
        return command

    return add_options


def sampling_performance(command: Command) -> Command:
    """The options that decide how fast images are sampled."""
    for option in (compile_network, precision, sampling_batch_size):  # shown in reverse order
        command = option(command)
    return command


def feature_extraction(command: Command) -> Command:
    """The options of every command that extracts features."""
    protocol = click.option(
        "--protocol",
        metavar="NAME",
        help="Evaluation protocol: adm (as in the papers), clean (clean-fid's resize), digits (the bundled "
        "digits), dinov2 or dinov2-pil (FD-DINOv2), or fdr-… (a space of FDr⁶).  [default: the reference's, "
        "else adm]",
    )
    for option in (offline, device, batch_size, inception, protocol):  # shown in reverse order
        command = option(command)
    return command


def image_input(command: Command) -> Command:
    """The options that say how images are found in a file and brought to one size."""
    image_size = click.option(
        "--image-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Crop the images of folders and zip archives to N×N pixels.  [default: they share a size]",
    )
    crop = click.option(
        "--crop",
        type=click.Choice(["adm", "center", "none"]),
        help="How they are cropped: adm (center_crop_arr of ADM and DiT), center (torchvision's Resize and "
        "CenterCrop, bicubic) or none (they must be N×N).  [default: adm with --image-size]",
    )
    key = click.option(
        "--key",
        metavar="NAME",
        default="arr_0",
        show_default=True,
        help="Name of the array of images in an .npz file.",
    )
    for option in (key, crop, image_size):  # shown in reverse order
        command = option(command)
    return command
