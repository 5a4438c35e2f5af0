"""What a result's JSON must hold: the keys that are read later, and the types of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit_eval.io.batch_record import RECORD
from dit_eval.io.json_rules import Rule, boolean, count, each, number, optional, require, size, text


def require_schema(sections: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, unless the sections of a result hold what SECTIONS says."""
    for name, rule in SECTIONS.items():
        require(name, sections.get(name), rule)
    reference = sections["reference"]
    if reference.get("n") is not None:
        require("reference.size", reference.get("size"), size)
    for metric in sections["metrics"]:
        require(f"measured_against.{metric}", sections["measured_against"].get(metric), text)


def _shares(value: Any) -> bool:
    """Classes of a metric: `label`, `n` and `inside`, equally long lists of integers."""
    if not isinstance(value, dict):
        return False
    lists = [items for key in ("label", "n", "inside") if isinstance(items := value.get(key), list)]
    integers = all(type(item) is int for items in lists for item in items)
    return len(lists) == 3 and integers and len(set(map(len, lists))) == 1


SECTIONS: Mapping[str, Rule] = {
    "metrics": each(number),
    "measured_against": each(text),
    "missing": each(text),
    "protocol": {
        "name": text,
        "fingerprint": text,
        "network": text,
        "weights": {"sha256": text, "official": boolean},
    },
    "samples": {
        "path": text,
        "n": count,
        "size": size,
        "crop": optional(text),
        **{key: optional(rule) for key, rule in RECORD.items()},
    },
    "reference": {
        "path": text,
        "n": optional(count),
        "size": optional(size),
        "digest": optional(text),
        "statistics": optional(text),
        "statistics_sha256": optional(text),
    },
    "environment": {"dit_eval": text, "torch": text, "device": text, "seconds": number},
    "intervals": each({"se": number, "low": number, "high": number}),
    "classes": each(_shares),
    "fingerprint": text,
    **dict.fromkeys(("label", "date", "command"), optional(text)),
}
