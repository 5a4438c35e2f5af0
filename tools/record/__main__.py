"""Record the numbers in tests/golden again, and compare them with what is stored: `make record`.

    python -m tools.record                      # all but the slow parts
    python -m tools.record --full               # all of them
    python -m tools.record dit sit --sources ~/src

Downloads the original programs, installs what they need into environments of their own below build/record,
and runs them unmodified on the inputs that the recipes in tests/golden make.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from dit_eval.errors import DitEvalError, UsageError
from tools.record import stored
from tools.record.compare import compare, table
from tools.record.environments import ROOT, RunFailedError, environments
from tools.record.quantities import Quantities, flatten
from tools.record.sources import PROGRAMS, collect

BUILD = ROOT / "build" / "record"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One run of a program."""

    program: str
    arguments: tuple[str, ...] = ()  # of its runner
    makes: str  # regular expression of the whole names of its quantities
    slow: bool = False


def _images(n: int, slow: bool = False) -> Part:
    makes = rf"expected/evaluator_on_images/{n}/.*|expected/sha256/images/\w+ {n} 64"
    return Part(program="evaluator.py", arguments=("images", str(n)), makes=makes, slow=slow)


def _case(name: str, slow: bool = False) -> Part:
    makes = rf"expected/evaluator_on_features/{name}/.*|knn_radii/{name}_.*"
    return Part(program="evaluator.py", arguments=("case", name), makes=makes, slow=slow)


def _encoders(program: str, makes: str) -> Part:
    return Part(program=program, arguments=(program,), makes=rf"encoders/{makes}")


PARTS = {
    "features": Part(
        program="evaluator.py",
        arguments=("features",),
        makes=r"tensorflow_features/.*|expected/sha256/(inception_weights|images/reference 8 \d+)",
    ),
    "images-300": _images(300),
    "images-2560": _images(2560, slow=True),
    "full_rank": _case("full_rank", slow=True),
    "rank_deficient": _case("rank_deficient"),
    "over_10000": _case("over_10000", slow=True),
    "fp16_overflow": _case("fp16_overflow"),
    "fp16_outlier": _case("fp16_outlier"),
    "dit": Part(program="DiT", makes=r"dit/.*|expected/sha256/dit_weights/.*"),
    "sit": Part(program="SiT", makes=r"sit/.*"),
    "center_crop": Part(program="center_crop_arr", makes=r"center_crop/.*"),
    "repa": Part(program="REPA", makes=r"repa_jit_samplers/repa_.*"),
    "jit": Part(program="JiT", makes=r"repa_jit_samplers/jit_.*"),
    "dinov2": _encoders("DINOv2", "dinov2_positions"),
    "edm2": _encoders("EDM2", r"dinov2_\d+_.*"),
    "dgm-eval": _encoders("dgm-eval", "dinov2-pil_.*"),
    "fd-loss": _encoders("FD-Loss", "fdr-.*"),
}


def record(parts: list[str], checkouts: Path | None, torch: str | None) -> tuple[Quantities, list[str]]:
    """Run the parts: what they found, with the processor and the versions, and the parts that failed."""
    programs = stored.read_numbers()["programs"]
    available = environments(BUILD / "environments", programs, torch)
    found, failed = flatten({"cpu": processor()}, "expected"), []
    for name in parts:
        part = PARTS[name]
        program, facts = PROGRAMS[part.program], programs[part.program]
        folders = [
            collect(
                PROGRAMS[needed],
                programs[needed]["repository"],
                programs[needed]["commit"],
                checkouts,
                BUILD / "sources",
            )
            for needed in (part.program, *program.needs)
        ]
        environment = available[program.environment]
        environment.create()
        versions = environment.versions(list(facts["versions"]))
        start = time.monotonic()
        try:
            found |= environment.run(program.runner, folders, *part.arguments)
        except RunFailedError as error:
            failed.append(name)
            click.echo(f"{name}: {error}", err=True)
            continue
        found |= flatten({"programs": {part.program: {"versions": versions}}}, "expected")
        click.echo(f"{name}: {time.monotonic() - start:.0f} s", err=True)
    return found, failed


def expected_from(parts: list[str], recorded: Quantities) -> Quantities:
    """The stored quantities that these parts make."""
    programs = "|".join(re.escape(PARTS[name].program) for name in parts)
    patterns = [r"expected/cpu", rf"expected/programs/({programs})/versions/.*"]
    patterns += [PARTS[name].makes for name in parts]
    return {key: value for key, value in recorded.items() if any(re.fullmatch(p, key) for p in patterns)}


def processor() -> str:
    """The model of this processor, and whether it has the instructions that change how sums round."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    wide = "AVX-512" if "avx512f" in flags else "no AVX-512"
    half = "AVX512-FP16" if "avx512_fp16" in flags else "no AVX512-FP16"
    return f"{facts.get('model name', 'unknown')} ({wide}, {half}), 1 thread"


@click.command()
@click.argument("names", metavar="[PART]...", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--full", is_flag=True, help="Run the slow parts too.")
@click.option(
    "--sources",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a checkout of each repository, instead of downloading.",
)
@click.option(
    "--torch", metavar="VERSION", help="Run DiT and SiT with this torch instead of the recorded one."
)
@click.option("--write", is_flag=True, help="With --full: write the files in tests/golden anew.")
def main(names: tuple[str, ...], full: bool, sources: Path | None, torch: str | None, write: bool) -> None:
    """Record the numbers in tests/golden again, or those of each PART, and compare them."""
    if names and full:
        raise UsageError("--full runs every part, so name none.")
    if write and not full:
        raise UsageError("--write replaces all files, which must come from one machine: add --full.")
    parts = list(names) or [name for name, part in PARTS.items() if full or not part.slow]
    found, failed = record(parts, sources, torch)
    finished = [name for name in parts if name not in failed]
    comparisons = list(compare(found, expected_from(finished, stored.read())))
    click.echo(table(comparisons))
    compared = [row for row in comparisons if row.tolerance.limit is not None]
    wrong = sum(not row.agrees for row in compared)
    click.echo(f"{len(compared) - wrong} of {len(compared)} comparisons agree; parts: {', '.join(finished)}.")
    if failed:
        raise RunFailedError(f"{', '.join(failed)} failed, see above; the table is of the other parts.")
    if write:
        stored.write(found)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    try:
        main()
    except DitEvalError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
