"""Progress bars on standard error, and the width of the terminal."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich is loaded with the first bar, which keeps --help fast
    from rich.progress import Progress, ProgressColumn

    from dit_eval.generation.pipeline import SamplingProgress
    from dit_eval.search.pipeline import SweepProgress


def terminal_width() -> int:
    """Columns for tables: the terminal's, at most 100."""
    return min(shutil.get_terminal_size().columns, 100)


@contextmanager
def extraction_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (name, images done, total) that draws one bar per name; silent unless stderr is a terminal.

    Like every bar here it appears with the first call, so that another bar can be shown before.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class ImagesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} images/s" if speed else "")

    with _bars(BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn()) as bars:
        tasks = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)
            bars.start()

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
    """A callback that draws the progress of sampling."""
    from rich.progress import BarColumn, TimeRemainingColumn

    count, speed = "{task.completed:,.0f}/{task.total:,.0f} images", "{task.fields[speed]}"
    with _bars(BarColumn(), count, speed, TimeRemainingColumn(elapsed_when_finished=True)) as bars:
        task = bars.add_task("sampling", total=None, speed="")
        start = time.monotonic()

        def update(progress: SamplingProgress) -> None:
            seconds = time.monotonic() - start
            speed = f"{progress.done / seconds:.3g} images/s"
            if progress.flops:
                speed += f", {progress.flops / seconds / 1e12:.3g} TFLOP/s"
            bars.update(task, completed=progress.done, total=progress.total, speed=speed)
            bars.start()

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
    shown = console.is_terminal and (any_rank or os.environ.get("LOCAL_RANK", "0") == "0")
    bars = Progress("{task.description}", *columns, console=console, transient=True, disable=not shown)
    try:
        yield bars
    finally:
        bars.stop()
