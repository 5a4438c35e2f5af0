"""Plug-ins: models of other programs, loaded by a function that the user names.

`module:function` names a function in a module of the working directory or of an installed package; a plain
name is an entry point of the group `dit_eval.models`. A plug-in is the user's own code and runs with the
user's rights: nothing is imported that the user has not named.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from dit_eval.dit.checkpoints import read_checkpoint
from dit_eval.errors import CheckpointError, DitEvalError, ModelError, UsageError
from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel, Model
from dit_eval.io.assets import sha256

ENTRY_POINTS = "dit_eval.models"
_GIT_TIMEOUT_S = 10

_declared: ContextVar[list[dict[str, Any]] | None] = ContextVar("declared_checkpoints", default=None)


def is_plugin(model: str) -> bool:
    """True if the name of a model is `module:function` or an entry point of the group `dit_eval.models`."""
    return ":" in model or bool(entry_points(group=ENTRY_POINTS, name=model))


def load_plugin(
    name: str, arguments: Mapping[str, Any], device: torch.device
) -> tuple[Model, dict[str, Any]]:
    """Call the function that `name` names with the arguments and, if it takes one, the device.

    Returns the model and its provenance: name and arguments, SHA-256 of the source file, commit and state of
    its git checkout, and the checkpoints that were read by `checkpoint`. Raises UsageError for names and
    arguments that do not exist, ModelError for code that raises an exception and for returned values that are
    no model.
    """
    function = _entry_point(name) if ":" not in name else _function(*name.rsplit(":", 1))
    keywords = _keywords(name, function, arguments, device)
    declared: list[dict[str, Any]] = []
    token = _declared.set(declared)
    try:
        with model_errors(name):
            model = function(**keywords)
    finally:
        _declared.reset(token)
    if not isinstance(model, (ImageModel, FlowModel, DiffusionModel)):
        raise ModelError(
            f"{name} returned an object of type {type(model).__name__}; expected dit_eval.ImageModel, "
            "dit_eval.FlowModel or dit_eval.DiffusionModel."
        )
    source = _source_file(function)
    return model, {
        "plugin": name,
        "arguments": {key: _json_value(value) for key, value in arguments.items()},
        **({"file_sha256": sha256(Path(source)), "git": _git_state(Path(source).parent)} if source else {}),
        "checkpoints": declared,
    }


def _source_file(function: Callable[..., Any]) -> str | None:
    """The file that defines a function or another callable object; None if it is not written in Python."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    defines_itself = inspect.isroutine(function) or inspect.isclass(function)
    try:
        return inspect.getsourcefile(function if defines_itself else type(function))
    except TypeError:
        return None


def checkpoint(path: str | Path, *, key: str | None = None, weights_only: bool = True) -> Any:
    """The content of a checkpoint, on the CPU; for use in a plug-in's `load()`.

    The file's SHA-256 becomes part of the plan of the batch, so that a changed checkpoint is another plan.
    key: the entry to return, such as "ema", of a checkpoint with several. weights_only: False also unpickles
    arbitrary objects, which can run code that the file contains.
    Raises CheckpointError if the file cannot be read or has no such entry.

    >>> sorted(dit_eval.checkpoint("model.pt", key="ema"))
    ['bias', 'weight']
    """
    path = Path(path)
    content = read_checkpoint(path, weights_only=weights_only)
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else "no entries"
            raise CheckpointError(f"{path} has no entry {key!r} (found: {found}).")
        content = content[key]
    declare_checkpoint(path, key)
    return content


def declare_checkpoint(path: Path, key: str | None = None) -> None:
    """Make a file that the plug-in in the call stack loads part of its provenance."""
    declared = _declared.get()
    if declared is not None:
        declared.append({"file": path.name, "sha256": sha256(path), **({"key": key} if key else {})})


@contextmanager
def model_errors(description: str) -> Iterator[None]:
    """Raise exceptions of a plug-in's own code as ModelError, with the exception as its cause."""
    try:
        yield
    except DitEvalError:
        raise
    except Exception as error:
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{description} raised {summary}") from error


def _function(module_name: str, attribute: str) -> Callable[..., Any]:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # and left there: the module may import others when it is used
    try:
        with model_errors(f"importing {module_name}"):
            module = import_module(module_name)
    except ModelError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module_name}.".startswith(f"{cause.name}."):
            raise UsageError(
                f"there is no module {module_name!r} in {folder} or among the installed packages."
            ) from None
        raise
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(
            f"module {module_name} has no function {attribute!r} (found: {', '.join(functions) or 'none'})."
        )
    return function


def _entry_point(name: str) -> Callable[..., Any]:
    (point, *_) = entry_points(group=ENTRY_POINTS, name=name)
    with model_errors(f"importing {point.value}"):
        return point.load()


def _keywords(
    name: str, function: Callable[..., Any], arguments: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """The arguments of the call. Raises UsageError for unknown and missing ones."""
    parameters = inspect.signature(function).parameters.values()
    accepted = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = ", ".join(key for key in accepted if key != "device") or "none"
    for key in arguments:
        if key not in accepted and not takes_any:
            raise UsageError(f"{name} takes no argument {key!r} (arguments: {names}).")
    keywords = {**({"device": device} if "device" in accepted or takes_any else {}), **arguments}
    for parameter in parameters:
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable and parameter.name not in keywords:
            raise UsageError(
                f"{name} needs the argument {parameter.name!r} (arguments: {names}): pass "
                f"--model-arg {parameter.name}=VALUE, or model_args={{{parameter.name!r}: …}} in Python."
            )
    return keywords


def _json_value(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds a folder, and whether tracked files differ; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
