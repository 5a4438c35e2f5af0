"""Which numbers measure the same thing: everything that gives a number its meaning, and what must agree.

The subject of a comparison may differ: the model, its weights, the sampler, its steps, the precision. What is
measured and how must not: protocol, weights of the network, reference, number and size of the images, labels,
guidance, decoder and its rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_eval.errors import ResultError
from dit_eval.io.assets import cached_path, lookup
from dit_eval.results.published import Published
from dit_eval.results.result import Result

_NAMES = {"name", "fingerprint"}  # of a protocol: they stand for the other fields
_SAMPLERS_OPTIONS = {"eta", "path", "prediction", "solver", "diffusion", "last_step", "last_step_size"}
_SUBJECT = {"sampler", "steps", "precision"} | _SAMPLERS_OPTIONS  # of a plan: they may differ
_IDENTITY = {"model", "weights", "num", "seed", "batch_size", "compile", "device"}  # of a plan: whose numbers

Meaning = Mapping[str, Any]


def meaning(protocol: Meaning, samples: Meaning, reference: Meaning) -> dict[str, Any]:
    """All that changes what the numbers of a result mean, as `part.field` → value."""
    fields = {f"protocol.{key}": value for key, value in protocol.items() if key not in _NAMES | {"weights"}}
    fields["protocol.weights"] = protocol["weights"]["sha256"]
    fields["reference.statistics"] = reference.get("statistics_sha256")
    fields["reference.images"] = reference.get("digest")
    fields["samples.n"] = samples["n"]
    fields["samples.size"] = list(samples["size"])
    plan = samples.get("plan") or {}
    fields |= {f"plan.{key}": value for key, value in plan.items() if key not in _IDENTITY}
    return fields


def fingerprint(protocol: Meaning, samples: Meaning, reference: Meaning) -> str:
    """Twelve hex digits that stand for the meaning of a result's numbers."""
    text = json.dumps(meaning(protocol, samples, reference), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(result: Result, baseline: Result) -> list[str]:
    """What should agree and does not: `field (value there, value here)`, there being the baseline."""
    here, there = (meaning(each.protocol, each.samples, each.reference) for each in (result, baseline))
    subject = {f"plan.{key}" for key in _SUBJECT}
    return [
        f"{key} ({_show(there, key)} there, {_show(here, key)} here)"
        for key in [*there, *(key for key in here if key not in there)]
        if key not in subject and here.get(key) != there.get(key)
    ]


def differences_from_papers(result: Result, image_size: int, num: int) -> dict[str, tuple[Any, Any]]:
    """What is not as in the papers' tables of that size and number of images: field → (value here, there)."""
    asset = lookup("reference_stats", f"imagenet-{image_size}")
    file = Path(result.reference["path"]).name
    found = {
        "protocol": (result.protocol["name"], "adm"),
        "network": ("official" if result.protocol["weights"]["official"] else "custom", "official"),
        "reference": (asset.name if file == cached_path(asset).name else file, asset.name),
        "samples.size": (list(result.samples["size"]), [image_size, image_size]),
        "samples.n": (result.samples["n"], num),
    }
    return {key: values for key, values in found.items() if values[0] != values[1]}


def differences_from_published(result: Result, row: Published) -> list[str]:
    """The same as `differences` for a row of a paper, of which less is known."""
    found = differences_from_papers(result, row.image_size, row.num)
    plan = result.samples.get("plan")
    if plan and row.cfg is not None:
        asked = {"cfg": row.cfg, "cfg_channels": "3"}
        found |= {f"plan.{key}": (plan[key], there) for key, there in asked.items() if plan[key] != there}
    return [f"{key} ({there} there, {here} here)" for key, (here, there) in found.items()]


def require_comparable(different: list[str], result: str, baseline: str) -> None:
    """Raise ResultError, naming every field, unless nothing differs."""
    if different:
        raise ResultError(
            f"{result} and {baseline} do not measure the same thing: {'; '.join(different)}. "
            "Measure them alike, or --force the comparison."
        )


def are_paired(result: Result, baseline: Result) -> bool:
    """True if image i of both was drawn from the same noise and label: equal seed, labels and number."""
    plans = [each.samples.get("plan") for each in (result, baseline)]
    return all(plans) and all(
        plans[0].get(key) == plans[1].get(key)  # type: ignore[union-attr]
        for key in ("seed", "labels", "num", "image_size")
    )


def _show(fields: Meaning, key: str) -> str:
    value = fields.get(key, "not recorded")
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)
