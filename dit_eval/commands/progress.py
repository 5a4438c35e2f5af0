"""A progress bar on standard error: what, how far, how fast, how long still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

if TYPE_CHECKING:
    from dit_eval.generation.pipeline import Progress as Drawn


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else "")


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what, done, total) that draws one bar per `what`; silent where stderr is no terminal.

    Like every bar here it appears when it has something to say: until then another may be drawn.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeLeft())
    with _bars(*columns) as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, unit=unit)
            bars.update(tasks[what], completed=done)
            bars.start()

        yield show


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A callback (bytes done, bytes in all or None) that draws a download."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeLeft(),
    )
    with _bars(*columns, any_rank=True) as bars:  # whichever is first downloads
        bars.start()
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def sampling_bar() -> Iterator[Callable[[Drawn], None]]:
    """A callback that draws how far sampling is."""
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
        TextColumn("{task.fields[rate]}"),
        TimeLeft(elapsed_when_finished=True),
    )
    with _bars(*columns) as bars:
        task = bars.add_task("", total=None, rate="")
        start = time.monotonic()

        def show(progress: Drawn) -> None:
            seconds = time.monotonic() - start
            rate = f"{progress.drawn / seconds:.3g} images/s, {progress.flops / seconds / 1e12:.3g} TFLOP/s"
            bars.update(task, completed=progress.drawn, total=progress.wanted, rate=rate)
            bars.start()

        yield show


@contextmanager
def _bars(*columns: ProgressColumn, any_rank: bool = False) -> Iterator[Progress]:
    """Bars on standard error, not started; hidden if that is no terminal, and from all but a first rank."""
    console = Console(stderr=True)
    first = any_rank or os.environ.get("LOCAL_RANK", "0") == "0"
    hidden = not (console.is_terminal and first)
    bars = Progress(*columns, console=console, transient=True, disable=hidden)
    try:
        yield bars
    finally:
        bars.stop()


def stdout_console() -> Console:
    """Standard output for tables: as wide as the terminal, 100 columns at most."""
    console = Console(highlight=False)
    console.width = min(console.width, 100)
    return console
