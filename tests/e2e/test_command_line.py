"""The command line as a whole: help, exit codes, start-up, and names that are never broken."""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from dit_eval import cli
from dit_eval.commands import options, registry
from dit_eval.io import assets
from tests.command import assert_one_sentence, dit_eval
from tests.handmade import handmade

# Runs the command in its arguments; fails if it exits with another code than expected or imports torch.
WITHOUT_TORCH = """
import sys
from dit_eval.cli import run
try:
    run()
except SystemExit as stop:
    code = stop.code
loaded = [name for name in ("torch", "torchvision") if name in sys.modules]
sys.exit(f"exit code {code}, loaded: {loaded}" if code or loaded else 0)
"""
REFUSED_WITHOUT_TORCH = WITHOUT_TORCH.replace("if code or", "if code != 2 or")
STARTUP_S = 0.5


def run_python(program: str, *arguments: object) -> float:
    """Run a program that must succeed and return its seconds of CPU time, which other jobs hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@cache
def bare_startup() -> float:
    return statistics.median(run_python("pass") for _ in range(3))


def all_commands(group: click.Group, *names: str) -> Iterator[tuple[str, ...]]:
    yield names
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, *names, name)
        else:
            yield *names, name


COMMANDS = list(all_commands(cli.main))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_starts_at_once_without_torch(names: tuple[str, ...]) -> None:
    seconds = statistics.median(run_python(WITHOUT_TORCH, *names, "--help") for _ in range(3))
    assert seconds < bare_startup() + STARTUP_S


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_fits_80_columns_and_says_what_each_option_does(
    names: tuple[str, ...],
) -> None:
    shown = dit_eval(*names, "--help")
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "-\n" not in shown.stdout  # a name broken at a hyphen
    assert "..." not in shown.stdout.partition("Commands:")[2]  # a summary that click has cut
    command: click.Command = cli.main
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    shown_options = [
        option for option in command.params if isinstance(option, click.Option) and not option.hidden
    ]
    assert all(option.help for option in shown_options)
    assert all(option.opts[0] in shown.stdout for option in shown_options)


@pytest.mark.parametrize(
    "arguments",
    [
        "fid absent.npz ref.npz",
        "fid {here} absent.npz",
        "fid {here} absent",
        "fid {here} {here} --inception absent.pth",
        "doctor absent.npz",
        "doctor {here} absent.npz",
        "ref make absent.npz --out {folder}/ref.npz",
        "check absent.json --baseline {here}",
        "compare {here} absent.json",
        "plot absent.json",
        "flops plot absent.json --out {folder}/plot.png",
        "table2 absent.json",
        "stats show absent.npz",
        "sample --ckpt absent.pt",
        "models fetch absent",
        "ref fetch absent",
    ],
)
def test_a_mistyped_file_or_name_is_answered_at_once(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    words = arguments.format(here=tmp_path / "here", folder=tmp_path).split()
    seconds = statistics.median(run_python(REFUSED_WITHOUT_TORCH, *words) for _ in range(3))
    assert seconds < bare_startup() + STARTUP_S
    refused = dit_eval(*words)
    assert_one_sentence(refused)
    assert "absent" in refused.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sample --model sit", ["sit-xl-2-256"]),
        ("flops count --model SiT-L", ["SiT-L/8", "SiT-L/4", "SiT-L/2"]),
        ("sample --model dig", ["digits", "digits-sit"]),
        ("sample --model DiT-S", ["DiT-S/8", "DiT-S/4", "DiT-S/2"]),
        ("reproduce table2 --model DiT", []),
        ("reproduce table2 --model digits", ["digits", "digits-sit"]),
        ("sample --ckpt digits", ["digits", "digits-sit"]),
        ("sample --ckpt sd", ["file"]),
        ("fid batch.npz imagenet-6", ["imagenet-64"]),
        ("fid batch.npz ref", ["file"]),
        ("doctor batch.npz dig", ["digits"]),
        ("fid --protocol c", ["clean"]),
        ("check result.json --published dit-xl-2-g-1.2", ["dit-xl-2-g-1.25"]),
        ("models fetch sd-vae-ft-e", ["sd-vae-ft-ema"]),
        ("ref fetch imagenet-6", ["imagenet-64"]),
    ],
)
def test_a_shell_completes_names(words: str, expected: list[str]) -> None:
    *arguments, incomplete = words.split()
    complete = ShellComplete(cli.main, {}, "dit-eval", "_DIT_EVAL_COMPLETE")
    items = complete.get_completions(arguments, incomplete)
    assert ["file" if item.type == "file" else item.value for item in items] == expected


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("fid {here} imagenet256", "imagenet-256"),
        ("fid {batch} {batch} --protocol dinov3", "dinov2"),
        ("fid {here} {here} --metric fid_infinit", "fid_infinity"),
        ("sample --ckpt dit-xl-2-265", "dit-xl-2-256"),
        ("ref fetch Digit", "digits"),
        ("models fetch sd-vae-ft-ena", "sd-vae-ft-ema"),
        ("check {here} --published dit-xl-2-g1.5", "dit-xl-2-g-1.50"),
        ("check {here} --baseline {here} --tolerance fdi=1", "fid"),
        ("sweep --against digits --vary cfg=1 --metric fidd", "fid"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest_ones(arguments: str, near: str, tmp_path: Path) -> None:
    here, batch = handmade(error=0.1).save(tmp_path / "here.json"), tmp_path / "batch.npz"
    np.savez(batch, np.zeros((8, 8, 8, 3), np.uint8))
    refused = dit_eval(*arguments.format(here=here, batch=batch).split())
    assert_one_sentence(refused)
    assert re.search(rf"Did you mean [^?]*\b{near}\b[^?]*\?", refused.stderr), refused.stderr


def test_completion_is_set_up_by_the_variable_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DIT_EVAL_COMPLETE", "bash_source")
    command = [sys.executable, "-m", "dit_eval"]
    assert "_dit_eval_completion()" in subprocess.run(command, capture_output=True, text=True).stdout


def test_the_names_of_models_are_the_same_in_all_commands() -> None:
    for name in ("XL/2", "DiT-XL/2", "dit-xl/2", "dit-xl-2-256"):
        assert assets.lookup("models", name).name == "dit-xl-2-256"
    assert assets.lookup("models", "SiT-XL/2").name == "sit-xl-2-256"


def test_threads_are_limited_before_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    program = (
        "import sys\nfrom dit_eval.cli import run\nimport click\n"
        "from dit_eval.commands import options\n"
        "@click.command()\n@options.threads\ndef command():\n"
        "    import torch\n    assert torch.get_num_threads() == 1\n"
        "command.main(['--threads', '1'])"
    )
    run_python(program)


def result_files(folder: Path) -> tuple[Path, Path]:
    """Two results: the second has a lower FID."""
    for name, fid in (("a", 9.6), ("b", 3.2)):
        handmade(fid=fid, error=0.1).save(folder / f"{name}.json")
    return folder / "a.json", folder / "b.json"


def test_verdicts_are_in_colour_on_a_terminal_unless_no_color_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = result_files(tmp_path)
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda stream, color: color is False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    better, worse = (
        dit_eval("check", result, "--baseline", baseline)
        for result, baseline in ((second, first), (first, second))
    )
    assert click.style("better", fg="green") in better.stdout
    assert click.style("Passed", fg="green", bold=True) in better.stdout
    assert click.style("worse", fg="red") in worse.stdout
    assert click.style("Failed", fg="red", bold=True) in worse.stdout
    assert f"3.20{click.style('+', fg='green', bold=True)}" in dit_eval("compare", first, second).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (("check", second, "--baseline", first), ("compare", first, second)):
        assert "\x1b" not in dit_eval(*arguments).stdout


def test_nothing_is_in_colour_in_a_pipe_or_in_another_format(tmp_path: Path) -> None:
    first, second = result_files(tmp_path)
    for arguments in (("check", second, "--baseline", first), ("compare", first, second)):
        done = subprocess.run(
            [sys.executable, "-m", "dit_eval", *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        coloured = CliRunner().invoke(cli.main, [*map(str, arguments), "--format", "markdown"], color=True)
        assert "\x1b" not in coloured.stdout


def test_commands_that_compute_no_features_load_no_torch(tmp_path: Path) -> None:
    digits = assets.folder("reference_stats") / "digits.npz"
    interval = {"se": 0.1, "low": 9.4, "high": 9.8}
    for name, cfg in (("a", 1.0), ("b", 1.5)):
        result = handmade(cfg=cfg)
        replace(result, intervals=dict.fromkeys(result.metrics, interval)).save(tmp_path / f"{name}.json")
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "batch.npz", images)
    result = tmp_path / "a.json"
    for arguments in (
        ("stats", "show", digits),
        ("stats", "merge", digits, digits, "--out", tmp_path / "merged.npz"),
        ("stats", "subtract", tmp_path / "merged.npz", digits, "--out", tmp_path / "rest.npz"),
        ("ref", "list"),
        ("ref", "fetch", "digits"),
        ("models", "list"),
        ("doctor", tmp_path / "batch.npz", "--pixels-only"),
        ("doctor", digits, "digits", "--pixels-only"),
        ("check", result, "--baseline", result),
        ("check", result, "--published", "dit-xl-2"),
        ("table2", result),
        ("plot", result, tmp_path / "b.json", "--out", tmp_path / "plots"),
    ):
        run_python(WITHOUT_TORCH, *arguments)


@pytest.mark.parametrize("kind", ["models", "reference_stats"])
def test_the_listings_fit_80_columns_and_say_where_files_are_and_their_size_if_known(
    kind: assets.Kind,
) -> None:
    manifest = assets.manifest(kind)
    downloaded = next(asset for asset in manifest.values() if not asset.bundled)
    assets.cached_path(downloaded).parent.mkdir(parents=True)
    assets.cached_path(downloaded).touch()
    shown = dit_eval({"models": "models", "reference_stats": "ref"}[kind], "list")
    assert shown.returncode == 0
    *rows, cache = shown.stdout.splitlines()
    assert cache == f"Cache: {assets.cache_dir()}"
    assert max(map(len, rows)) <= 80
    locations = dict(row.split(maxsplit=1) for row in rows if row and not row.startswith(" "))
    assert list(locations) == list(manifest)
    for name, asset in manifest.items():
        expected = "bundled" if asset.bundled else "cached" if asset is downloaded else "not downloaded"
        location, _, size = locations[name].partition(", ")
        assert location == expected
        assert size.endswith(" MB") == (asset.bytes is not None)


def test_an_unexpected_exception_is_one_line_and_exit_70(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: str) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(registry, "print_assets", fail)
    run = dit_eval("models", "list")
    assert (run.returncode, run.stdout) == (70, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("Internal error: ZeroDivisionError: two lines; this is a bug in dit-eval")
    debug = dit_eval("--debug", "models", "list")
    assert debug.returncode == 70
    assert debug.stderr.startswith("Traceback (most recent call last)")
    assert debug.stderr.endswith(line + "\n")


def test_an_interruption_is_exit_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(kind: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "print_assets", interrupt)
    run = dit_eval("models", "list")
    assert run.returncode == 130
    assert run.stderr.split() == ["Interrupted."]


@pytest.mark.parametrize(("given", "num"), [((), None), (("--num-samples", "7"), 7), (("--num", "8"), 8)])
def test_num_is_a_hidden_alias_of_num_samples(given: tuple[str, ...], num: int | None) -> None:
    @click.command()
    @options.num_samples(help="Number of images.")
    def command(num: int | None) -> int | None:
        return num

    assert command.main(list(given), standalone_mode=False) == num
    help_text = command.get_help(click.Context(command))
    assert "--num-samples" in help_text
    assert "--num " not in help_text
