"""`dit-eval certify`: check this installation against published and recorded numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, terminal_width
from dit_eval.errors import UnreachableError, UsageError
from dit_eval.io.files import write_json

if TYPE_CHECKING:
    from dit_eval.diagnostics.certificate import Certificate

_UNREACHABLE = (
    "The published batches are neither in the cache nor can they be downloaded (`--only NAME` says why), so "
    "the recorded numbers are compared instead."
)


@click.command()
@click.option(
    "--recorded",
    is_flag=True,
    help="Compare with numbers in the package, recorded from the original programs; uses no network.",
)
@click.option("--full", is_flag=True, help="With --recorded: also FID of full rank, 2,560 + 2,560 images.")
@click.option("--only", metavar="NAME", help="Only adm-64 (0.6 GB) or adm-g-adm-u-256 (10 GB).")
@click.option(
    "--out",
    type=options.Output(".json"),
    default="certificate.json",
    show_default=True,
    help="Output JSON file.",
)
@options.batch_size
@options.device
@options.offline
@click.pass_context
def certify(context: click.Context, out: Path, recorded: bool, full: bool, **settings: Any) -> None:
    """Verify this installation against the original programs.

    Evaluates ADM's published samples and compares with the published metrics: downloads the batches, their
    references and the Inception weights; interrupted downloads are resumed. With --recorded, and by itself
    where nothing can be downloaded, compares features, metrics, networks and chains on this device with
    recorded ones. OUT records the numbers, their tolerances and the versions used. Exits with 1 if a number
    is outside its tolerance.
    """
    if (recorded and settings["only"]) or (full and not recorded):
        raise UsageError("--only names a published batch, and --full belongs to --recorded; choose one half.")
    certificate = _recorded(full, **settings) if recorded else _published(**settings)
    if certificate is None:  # a rank other than 0
        return
    write_json(out, certificate.to_json())
    click.echo(certificate.table(width=terminal_width()))
    context.exit(0 if certificate.holds else 1)


def _published(only: str | None, **settings: Any) -> Certificate | None:
    from dit_eval.diagnostics.certify import certify as certify_published  # imports torch

    try:
        return certify_published(only, open_progress=extraction_bar, **settings)
    except UnreachableError:
        if only is not None:
            raise
    click.echo(_UNREACHABLE, err=True)
    return _recorded(False, **settings)


def _recorded(full: bool, *, device: str, batch_size: int, **_: Any) -> Certificate:
    from dit_eval.diagnostics.certify_recorded import certify_recorded  # imports torch

    return certify_recorded(full=full, device=device, batch_size=batch_size, open_progress=extraction_bar)
