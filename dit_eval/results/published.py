"""Published results and costs, from reference_stats/published.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from dit_eval.io.assets import folder

_ARCHITECTURE = re.compile(r"(dit|sit)-(xl|s|b|l)[-/]([248])(?!\d)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a paper's table.

    label: as printed; num: number of images; model, cfg, sampler: given for models that dit-eval can sample
    from, else None.
    """

    label: str
    image_size: int
    num: int
    metrics: Mapping[str, float]
    source: str
    model: str | None = None
    cfg: float | None = None
    sampler: str | None = None
    note: str = ""


@cache
def published_results() -> Mapping[str, Published]:
    """All rows by registered name."""
    return {name: Published(**entry) for name, entry in _read(float)["results"].items()}


def published_gflops() -> dict[tuple[str, str, int], Decimal]:
    """The papers' "Gflops" by model, block and image size, with the printed digits."""
    figures = {}
    for entry in _read(Decimal)["gflops"]:
        key = entry["model"], entry.get("block", "adaln-zero"), entry.get("image_size", 256)
        figures[key] = Decimal(entry["gflops"])
    return figures


def architecture(model: str) -> str | None:
    """`DiT-XL/2` for `dit-xl-2-256` and for `DiT-XL/2`; None for a name without an architecture."""
    match = _ARCHITECTURE.match(model)
    if match is None:
        return None
    family, size, patch = match.groups()
    return f"{'DiT' if family.lower() == 'dit' else 'SiT'}-{size.upper()}/{patch}"


def _read(parse_float: type[float] | type[Decimal]) -> dict[str, Any]:
    path = folder("reference_stats") / "published.toml"
    return tomllib.loads(path.read_text("utf-8"), parse_float=parse_float)
