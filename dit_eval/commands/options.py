"""Options shared by several commands."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from dit_eval.dit import DIT
from dit_eval.errors import AssetError, BatchError, CheckpointError, DitEvalError, ResultError, did_you_mean
from dit_eval.io import assets
from dit_eval.io.addresses import is_address

Command = Callable[..., Any]

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Input(click.Path):
    """A file, or with `folder` also a folder, to read. A missing one is refused before torch is loaded."""

    def __init__(self, error: type[DitEvalError] = BatchError, *, folder: bool = True):
        super().__init__(dir_okay=folder, path_type=Path)
        self.error = error

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """The path. Raises the error unless it exists."""
        path = Path(str(super().convert(value, param, ctx)))
        if not path.exists():
            raise self.error(f"{path}: no such file{' or folder' if self.dir_okay else ''}.")
        return path


class _InputOrAddress(Input):
    """The same, or text that begins with https:// or hf://."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """The path or the address."""
        return value if is_address(value) else super().convert(value, param, ctx)


class NamedInput(click.ParamType):
    """A file or a folder to read, an address, or the name of a registered asset, as text; nothing else."""

    name = "input"

    def __init__(self, kind: assets.Kind):
        self.kind: assets.Kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text. Raises BatchError for a path, and UsageError for a name, that does not exist."""
        path = Path(value)
        if not path.exists() and not is_address(value):
            if path.suffix or len(path.parts) > 1:
                raise BatchError(f"{path}: no such file or folder.")
            assets.lookup(self.kind, value)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Registered names, and files where none begins like this."""
        return _names_or_files(assets.manifest(self.kind), incomplete)


IMAGES = Input()
IMAGES_OR_ADDRESS = _InputOrAddress()
RESULT = Input(ResultError, folder=False)
RESULTS = Input(ResultError)  # or folders of them
REFERENCE = NamedInput("reference_stats")


def completed_by(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """The attribute `shell_complete` of an option whose values have these names."""
    return lambda context, option, incomplete: [name for name in names() if name.startswith(incomplete)]


def _names_or_files(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The names that begin like this, or else files: in bash, files would replace the names."""
    fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def registered_models() -> list[str]:
    """The registered weights of DiT, SiT and REPA."""
    return [entry.name for entry in assets.manifest("models").values() if entry.role == "dit"]


def model_names() -> list[str]:
    """The registered models and, of every family, the architectures, whose weights --ckpt gives."""
    families = get_args(assets.Family)
    return [*registered_models(), *(f"{family}-{name}" for family in families for name in DIT)]


def _protocol_names() -> list[str]:
    from dit_eval.features.protocols import PROTOCOLS

    return list(PROTOCOLS)


class Name(click.Choice[str]):
    """One of a few names; for another one, the nearest are suggested."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The message of click, which lists the names, and the suggestion."""
        return super().get_invalid_choice_message(value, ctx) + did_you_mean(str(value), self.choices)


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
    type=Input(AssetError, folder=False),
    help="Weights of the feature network (.pth or .safetensors), instead of the registered file.  "
    "[default for protocols with the Inception: $DIT_EVAL_INCEPTION]",
)


def _require_weights(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse a missing file before torch is loaded."""
    if value is not None and not Path(value).exists() and value not in assets.manifest("models"):
        raise CheckpointError(
            f"{value}: no such file, and no registered name (see `dit-eval models list`)."
            f"{did_you_mean(value, registered_models())}"
        )
    return value


ckpt = click.option(
    "--ckpt",
    metavar="NAME|FILE",
    callback=_require_weights,
    shell_complete=lambda context, option, incomplete: _names_or_files(registered_models(), incomplete),
    help="Registered name or file of the weights.",
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


def _limit_threads(context: click.Context, option: click.Parameter, value: int | None) -> None:
    """Set the variable that torch and BLAS read when they are loaded, which is later."""
    if value is not None:
        os.environ["OMP_NUM_THREADS"] = str(value)


threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    callback=_limit_threads,
    expose_value=False,
    help="Number of CPU threads for the computation.  [default: $OMP_NUM_THREADS, else one per core]",
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
        arguments[key] = model_argument(value)
    return arguments


def model_argument(text: str) -> Any:
    """The value of an argument of a plug-in: a number, a boolean or None if it is written as one."""
    with suppress(ValueError, SyntaxError):
        literal = ast.literal_eval(text)
        if isinstance(literal, (int, float, bool, type(None))):
            return literal
    return text


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


def feature_extraction(command: Command, *, several_protocols: bool = False) -> Command:
    """The options of every command that extracts features; several_protocols: --protocol can be repeated."""
    repeated = " Can be repeated; the images are read once." if several_protocols else ""
    protocol = click.option(
        "--protocol",
        metavar="NAME",
        multiple=several_protocols,
        shell_complete=completed_by(_protocol_names),
        help="Evaluation protocol: adm (as in the papers), clean (clean-fid's resize), digits (the bundled "
        f"digits), dinov2 (as EDM2), or another encoder (see docs/protocol.md).{repeated}  [default: the "
        "reference's, else adm]",
    )
    for option in (offline, threads, device, batch_size, inception, protocol):  # shown in reverse order
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
