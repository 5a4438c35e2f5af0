"""Which results measure the same thing: the fields that give a number its meaning, and which must agree.

The subject of a comparison may differ: the model, its weights, the sampler, its steps, the precision. What is
measured and how must not: protocol, weights of the network, reference, number and size of the images, labels,
guidance, decoder and its rounding.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dit_eval.errors import ResultError
from dit_eval.io.assets import cached_path, lookup
from dit_eval.results.published import Published
from dit_eval.results.result import Result
from dit_eval.sampling.options import OPTIONS

# Fields of a plan that may differ between two results, and those that only identify a result
SUBJECT = {"sampler", "steps", "precision"}.union(*OPTIONS.values())
_IDENTITY = {"model", "weights", "source", "num", "seed", "batch_size", "compile", "device"}
GUIDANCE_SCALE = ("plan.cfg",)  # differs within a curve
_WORDS = {  # for fields whose names do not say it themselves
    "protocol.inception_score_chunk": "chunks of the inception score",
    "protocol.k": "nearest neighbours of precision and recall",
    "protocol.network": "feature network",
    "protocol.precision": "precision of the feature network",
    "protocol.weights": "weights of the feature network",
    "network": "weights of the feature network",
    "reference.images": "images of the reference",
    "reference.statistics": "statistics of the reference",
    "samples.crop": "crop of the images",
    "samples.n": "number of images",
    "samples.size": "size of the images",
    "plan.cfg": "guidance scale",
    "plan.cfg_channels": "guided channels",
    "plan.cfg_interval": "guidance interval in noise levels",
    "plan.cfg_times": "guidance interval in the network's time",
}

Section = Mapping[str, Any]


def meaning(protocol: Section, samples: Section, reference: Section) -> dict[str, Any]:
    """All metadata that change what the numbers of a result mean, as `section.field` → value."""
    names = ("name", "fingerprint", "weights")  # of the protocol; the other fields say what these stand for
    fields = {f"protocol.{key}": value for key, value in protocol.items() if key not in names}
    fields["protocol.weights"] = protocol["weights"]["sha256"]
    fields["reference.statistics"] = reference.get("statistics_sha256")
    fields["reference.images"] = reference.get("digest")
    fields["samples.n"] = samples["n"]
    fields["samples.size"] = list(samples["size"])
    if samples.get("crop"):  # that of the reference shows in the digests
        fields["samples.crop"] = samples["crop"]
    plan = samples.get("plan") or {}
    fields |= {f"plan.{key}": value for key, value in plan.items() if key not in _IDENTITY}
    return fields


def result_fingerprint(protocol: Section, samples: Section, reference: Section) -> str:
    """Twelve hex digits for everything that changes what the numbers of a result mean."""
    text = json.dumps(meaning(protocol, samples, reference), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(result: Result, baseline: Result, ignored: Collection[str] = ()) -> list[str]:
    """What should agree and does not, in words: `number of images (50000 there, 2000 here)`.

    There is the baseline.
    """
    result_fields = meaning(result.protocol, result.samples, result.reference)
    baseline_fields = meaning(baseline.protocol, baseline.samples, baseline.reference)
    subject = {f"plan.{key}" for key in SUBJECT}
    return [
        f"{_name(key)} ({_show(baseline_fields, key)} there, {_show(result_fields, key)} here)"
        for key in [*baseline_fields, *(key for key in result_fields if key not in baseline_fields)]
        if key not in subject and key not in ignored and result_fields.get(key) != baseline_fields.get(key)
    ]


def comparable_groups(results: Iterable[Result]) -> list[list[Result]]:
    """The results in groups that can share an axis or a table, whatever their guidance scales."""
    results = list(results)
    groups: dict[int, list[Result]] = {}
    for number, result in zip(group_numbers(results), results, strict=True):
        groups.setdefault(number, []).append(result)
    return list(groups.values())


def group_numbers(results: Iterable[Result]) -> list[int]:
    """For each result the number of its group, from 0; see `comparable_groups`."""
    firsts: list[Result] = []
    numbers = []
    for result in results:
        fitting = (i for i, first in enumerate(firsts) if not differences(result, first, GUIDANCE_SCALE))
        numbers.append(next(fitting, len(firsts)))
        if numbers[-1] == len(firsts):
            firsts.append(result)
    return numbers


def describe_measurement(result: Result) -> str:
    """What was measured: number and size of the images, reference and protocol."""
    n, size, reference = result.samples["n"], result.samples["size"], Path(result.reference["path"]).name
    return f"{n:,} images of {show_value(list(size))} against {reference}, protocol {result.protocol['name']}"


def differences_from_papers(result: Result, image_size: int, num: int) -> dict[str, tuple[Any, Any]]:
    """What differs from the papers' tables of that size and number of images: field → (value here, there)."""
    asset = lookup("reference_stats", f"imagenet-{image_size}")
    file = Path(result.reference["path"]).name
    found = {
        "protocol": (result.protocol["name"], "adm"),
        "network": ("official" if result.protocol["weights"]["official"] else "custom", "official"),
        "reference": (asset.name if file == cached_path(asset).name else file, asset.name),
        "samples.size": (list(result.samples["size"]), [image_size, image_size]),
        "samples.n": (result.samples["n"], num),
    }
    if plan := result.samples.get("plan"):
        found["plan.cfg_channels"] = plan.get("cfg_channels", "unrecorded"), "3"
    return {key: values for key, values in found.items() if values[0] != values[1]}


def differences_from_published(result: Result, row: Published, ignored: Collection[str] = ()) -> list[str]:
    """The same as `differences` for a row of a paper, of which less is known."""
    found = differences_from_papers(result, row.image_size, row.num)
    plan = result.samples.get("plan")
    if plan and row.cfg not in (None, plan.get("cfg")):
        found["plan.cfg"] = plan.get("cfg"), row.cfg
    return [
        f"{_name(key)} ({show_value(there)} there, {show_value(here)} here)"
        for key, (here, there) in found.items()
        if key not in ignored
    ]


def require_comparable(different: list[str], result: str, baseline: str) -> None:
    """Raise ResultError, naming every field, unless nothing differs."""
    if different:
        raise ResultError(
            f"{result} and {baseline} do not measure the same thing: {'; '.join(different)}. "
            "Measure them alike, or --force the comparison."
        )


def are_paired(result: Result, baseline: Result) -> bool:
    """True if image i of both was drawn from the same noise and label: equal seed, labels and number."""
    plans = [compared.samples.get("plan") for compared in (result, baseline)]
    return all(plans) and all(
        plans[0].get(key) == plans[1].get(key)  # type: ignore[union-attr]
        for key in ("seed", "labels", "num", "image_size")
    )


def _name(key: str) -> str:
    """A field in words."""
    return _WORDS.get(key, key.rpartition(".")[2].replace("_", " "))


def _show(fields: Section, key: str) -> str:
    if key == "samples.crop":  # recorded only where there is one
        return show_value(fields.get(key))
    return show_value(fields[key]) if key in fields else "not recorded"


def show_value(value: Any) -> str:
    """The value of a field as text; of each SHA-256 the first twelve digits."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ("×" if all(isinstance(item, int) for item in value) else "–").join(map(str, value))
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", str(value))
