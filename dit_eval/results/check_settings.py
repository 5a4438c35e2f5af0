"""Settings of a check: amounts such as tolerances, and the table [tool.dit-eval.check] of pyproject.toml."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dit_eval.errors import UsageError, require_known

_NUMBER = "a number"
_AMOUNTS = "a table of metrics with numbers or percentages"
_KEYS = {
    "baseline": "the path of a result's JSON",
    "tolerance": _AMOUNTS,
    "require-power": _AMOUNTS,
    "max-gflops": _NUMBER,
    "min-speed": _NUMBER,
}


@dataclass(frozen=True)
class Amount:
    """A change of a metric: in its own unit, or relative to the baseline."""

    amount: float = 0.0
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Amount:
        """ "0.1" or "2%". Raises UsageError for anything else."""
        try:
            relative = text.endswith("%")
            amount = float(text.removesuffix("%")) / (100 if relative else 1)
            if not 0 <= amount < math.inf:
                raise ValueError
        except ValueError:
            raise UsageError(f"{text!r} is neither a number like 0.1 nor a percentage like 2%.") from None
        return cls(amount, relative)

    def absolute(self, baseline: float) -> float:
        """The change in the metric's unit."""
        return self.amount * abs(baseline) if self.relative else self.amount


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What pyproject.toml sets; None or empty where it sets nothing."""

    baseline: Path | None = None
    tolerance: Mapping[str, Amount] = field(default_factory=dict)
    require_power: Mapping[str, Amount] = field(default_factory=dict)
    max_gflops: float | None = None
    min_speed: float | None = None


def read_settings(folder: Path) -> CheckSettings:
    """The table [tool.dit-eval.check] of a folder's pyproject.toml.

    Raises UsageError for a file that is not valid TOML, for unknown keys and for values of another type.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        return CheckSettings()
    try:
        table: Any = tomllib.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML ({error}).") from None
    for key in ("tool", "dit-eval", "check"):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    place = f"[tool.dit-eval.check] of {path}"
    if not isinstance(table, dict):
        raise UsageError(f"{place} is {table!r}; expected a table.")
    require_known(f"key in {place}:", table, _KEYS)
    for key, value in table.items():
        if not _is_valid(key, value):
            raise UsageError(f"{place}: {key} is {value!r}; expected {_KEYS[key]}.")
    amounts = {
        key: {metric: Amount.parse(str(amount)) for metric, amount in table.get(key, {}).items()}
        for key in ("tolerance", "require-power")
    }
    return CheckSettings(
        baseline=Path(table["baseline"]) if "baseline" in table else None,
        tolerance=amounts["tolerance"],
        require_power=amounts["require-power"],
        max_gflops=table.get("max-gflops"),
        min_speed=table.get("min-speed"),
    )


def _is_valid(key: str, value: Any) -> bool:
    if _KEYS[key] == _AMOUNTS:
        return isinstance(value, dict) and all(isinstance(v, str) or _is_number(v) for v in value.values())
    return _is_number(value) if _KEYS[key] == _NUMBER else isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
