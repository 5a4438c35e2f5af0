"""The record OUT.json beside a batch OUT.npz: how the batch was sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dit_eval.io.files import file_kind, read_json


def read_record(batch: Path) -> dict[str, Any]:
    """The record beside a batch: plan, sha256, digest and more; empty if there is none."""
    record = read_json(batch.with_suffix(".json")) if file_kind(batch) == "npz" else {}
    return record if "plan" in record else {}
