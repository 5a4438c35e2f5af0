"""The record OUT.json beside a batch OUT.npz: how the batch was drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_record(batch: Path) -> dict[str, Any]:
    """What OUT.json says of the batch OUT.npz: plan, sha256, digest and more; empty where there is none."""
    record = read_json(batch.with_suffix(".json")) if batch.suffix == ".npz" else {}
    return record if "plan" in record else {}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
