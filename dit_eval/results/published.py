"""Published results and costs, from reference_stats/published.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from dit_eval.io.assets import folder
from dit_eval.io.records import make_record, read_toml

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


@dataclass(frozen=True, kw_only=True)
class PublishedCost:
    """The cost of a forward pass, in 1e9 multiply-adds, with the printed digits."""

    model: str
    gflops: Decimal | int
    source: str
    block: str = "adaln-zero"
    image_size: int = 256


@cache
def published_results() -> Mapping[str, Published]:
    """All rows by registered name. Raises AssetError, naming the entry, for unknown or missing keys."""
    path = _path()
    rows = read_toml(path).get("results", {})
    return {name: make_record(Published, path, f"results.{name}", values) for name, values in rows.items()}


def published_gflops() -> dict[tuple[str, str, int], Decimal]:
    """The papers' "Gflops" by model, block and image size. Raises AssetError as `published_results`."""
    path = _path()
    rows = read_toml(path, Decimal).get("gflops", [])
    costs = [make_record(PublishedCost, path, f"gflops {row}", values) for row, values in enumerate(rows)]
    return {(cost.model, cost.block, cost.image_size): Decimal(cost.gflops) for cost in costs}


def architecture(model: str) -> str | None:
    """`DiT-XL/2` for `dit-xl-2-256` and for `DiT-XL/2`; None for a name without an architecture."""
    match = _ARCHITECTURE.match(model)
    if match is None:
        return None
    family, size, patch = match.groups()
    return f"{'DiT' if family.lower() == 'dit' else 'SiT'}-{size.upper()}/{patch}"


def _path() -> Path:
    return folder("reference_stats") / "published.toml"
