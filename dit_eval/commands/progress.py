"""Progress and warnings on standard error, and the width of the terminal.

Progress is a bar on a terminal and lines elsewhere.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # rich is loaded with the first bar, which keeps --help fast
    from rich.progress import Progress, ProgressColumn

    from dit_eval.generation.pipeline import SamplingProgress
    from dit_eval.search.pipeline import SweepProgress

LINE_EVERY_S = 30  # without a terminal, as in a job's log file


def terminal_width() -> int:
    """Columns for tables: the terminal's, at most 100."""
    return min(shutil.get_terminal_size().columns, 100)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning once."""
    for warning in dict.fromkeys(warnings):
        click.echo(f"Warning: {warning}", err=True)


@contextmanager
def extraction_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (name, images done, total) that draws one bar per name.

    Without a terminal it prints a line every 30 seconds. Like every bar here, one appears with the first
    call, so that another bar can be shown before.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class ImagesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} images/s" if speed else "")

    with _bars(BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn()) as bars:
        tasks, lines = {}, _Lines()

        def update(name: str, done: int, total: int) -> None:
            if bars.disable:
                return lines.update(name, done, total)
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)
            return bars.start()

        yield update


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A callback (bytes received, bytes in total or None) that draws a download."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bars(*columns, any_rank=True) as bars:  # whichever rank downloads
        bars.start()
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def sampling_bar() -> Iterator[Callable[[SamplingProgress], None]]:
    """A callback that draws the progress of sampling, or prints a line every 30 seconds."""
    from rich.progress import BarColumn, TimeRemainingColumn

    count, speed = "{task.completed:,.0f}/{task.total:,.0f} images", "{task.fields[speed]}"
    with _bars(BarColumn(), count, speed, TimeRemainingColumn(elapsed_when_finished=True)) as bars:
        task = bars.add_task("sampling", total=None, speed="")
        start, lines = time.monotonic(), _Lines()

        def update(progress: SamplingProgress) -> None:
            if bars.disable:
                return lines.update("sampling", progress.done, progress.total)
            seconds = time.monotonic() - start
            speed = f"{progress.done / seconds:.3g} images/s"
            if progress.flops:
                speed += f", {progress.flops / seconds / 1e12:.3g} TFLOP/s"
            bars.update(task, completed=progress.done, total=progress.total, speed=speed)
            return bars.start()

        yield update


@contextmanager
def sweep_bar() -> Iterator[Callable[[SweepProgress], None]]:
    """A callback that draws the progress of a search; the time left is that without further drops."""
    from rich.progress import BarColumn, TimeRemainingColumn

    alive = "{task.fields[alive]} of {task.fields[candidates]} settings"
    count = "{task.completed:,.0f} of at most {task.total:,.0f} images"
    with _bars(BarColumn(), alive, count, TimeRemainingColumn()) as bars:
        task = bars.add_task("sampling", total=None, alive=0, candidates=0)

        def update(progress: SweepProgress) -> None:
            bars.update(
                task,
                description=progress.stage,
                completed=progress.images,
                total=progress.at_most,
                alive=progress.alive,
                candidates=progress.candidates,
            )
            bars.start()

        yield update


@contextmanager
def _bars(*columns: str | ProgressColumn, any_rank: bool = False) -> Iterator[Progress]:
    """Bars on standard error, not started; hidden without a terminal and, unless any_rank, off rank 0."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = console.is_terminal and (any_rank or _is_first_rank())
    bars = Progress("{task.description}", *columns, console=console, transient=True, disable=not shown)
    try:
        yield bars
    finally:
        bars.stop()


class _Lines:
    """Progress as lines, at most one in LINE_EVERY_S seconds, printed by the first rank of a machine."""

    def __init__(self) -> None:
        self._starts: dict[str, tuple[float, float]] = {}  # time of the first call, and images done then
        self._last = time.monotonic()

    def update(self, name: str, done: float, total: float) -> None:
        """Print what is done, how fast, and how long the rest takes, if it is time."""
        now = time.monotonic()
        start, before = self._starts.setdefault(name, (now, done))
        if now - self._last < LINE_EVERY_S or not _is_first_rank():
            return
        self._last = now
        line = f"{name}: {done:,.0f} of {total:,.0f} images"
        if done > before:
            rate = (done - before) / (now - start)
            line += f", {rate:.3g} images/s, {timedelta(seconds=round((total - done) / rate))} left"
        click.echo(line, err=True)


def _is_first_rank() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
