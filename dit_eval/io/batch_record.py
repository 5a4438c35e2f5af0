"""The record OUT.json beside a batch OUT.npz: how the batch was sampled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_eval.io.files import file_kind, read_json
from dit_eval.io.json_rules import Rule, count, fits, number, optional, positive, text

# The keys that a Result takes over
RECORD: Mapping[str, Rule] = {
    "plan": {"model": text, "cfg": optional(number), "image_size": count, "sampler": text},
    "macs": optional(number),
    "passes_per_image": optional(number),
    "speed": optional({"device": text, "images": positive, "seconds": positive}),
    "digest": optional(text),
    "label": optional(text),
}


def read_record(batch: Path) -> dict[str, Any]:
    """The record beside a batch: plan, sha256, digest and more; empty if there is none, or another JSON."""
    record = read_json(batch.with_suffix(".json")) if file_kind(batch) == "npz" else {}
    return record if fits(record, RECORD) else {}
