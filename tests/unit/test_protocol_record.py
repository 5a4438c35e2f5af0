"""Fingerprints of protocols cover what code reads, and records of version 1 are still understood."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from dit_eval.evaluation.references import open_reference
from dit_eval.features.protocols import PROTOCOLS, Protocol
from dit_eval.io import npz
from dit_eval.io.assets import fetch, lookup
from dit_eval.results.protocol_record import protocol_fingerprint, upgraded_protocol
from dit_eval.results.result import Result
from tests.unit.test_results import RESULT

WEIGHTS = {"file": "w.pth", "sha256": "ab" * 32, "official": True}
OLD: dict[str, Any] = {
    "name": "adm",
    "resize": "tf1-bilinear",
    "network": "inception-2015-12-05",
    "weights": WEIGHTS,
    "spatial": "Mixed_6d.branch1x1, 17×17, first 7 channels, height-width-channel",
    "probabilities": "softmax(pool · W), no bias",
    "inception_score_chunk": 5000,
    "neighbour": 3,
    "fingerprint": "28efbcb3435c",
}


def record(protocol: Protocol, sha256: str = WEIGHTS["sha256"]) -> dict[str, Any]:
    return {**asdict(protocol), "weights": {**WEIGHTS, "sha256": sha256}}


def test_every_field_but_the_names_changes_the_fingerprint() -> None:
    adm = PROTOCOLS["adm"]
    before = protocol_fingerprint(record(adm))
    changes = {"resize": "none", "network": "digits", "inception_score_chunk": 10, "k": 5}
    assert {field.name for field in fields(Protocol)} == {"name", "weights", *changes}
    for name, value in changes.items():
        assert protocol_fingerprint(record(replace(adm, **{name: value}))) != before
    assert protocol_fingerprint(record(adm, "cd" * 32)) != before
    assert protocol_fingerprint(record(replace(adm, name="mine"))) == before


def test_a_record_of_version_1_is_the_same_protocol() -> None:
    upgraded = upgraded_protocol(OLD)
    assert upgraded["fingerprint"] == protocol_fingerprint(record(PROTOCOLS["adm"]))
    assert {key: upgraded[key] for key in ("name", "k", "resize")} == {
        "name": "adm",
        "k": 3,
        "resize": "tf1-bilinear",
    }
    assert not {"neighbour", "spatial", "probabilities"} & upgraded.keys()
    assert upgraded_protocol(upgraded) == upgraded


@pytest.mark.parametrize("change", [{"resize": "clean-fid-bicubic"}, {"neighbour": 5}])
def test_a_record_of_version_1_with_another_field_is_another_protocol(change: dict[str, Any]) -> None:
    upgraded = upgraded_protocol({**OLD, **change})
    assert upgraded["fingerprint"] != protocol_fingerprint(record(PROTOCOLS["adm"]))


def test_the_bundled_reference_was_made_with_version_1_and_is_accepted() -> None:
    path = fetch(lookup("reference_stats", "digits"))
    stored = json.loads(str(npz.members(path)["provenance"].read()))["protocol"]
    assert "neighbour" in stored
    reference = open_reference("digits")
    current = record(PROTOCOLS["digits"], stored["weights"]["sha256"])
    assert reference.provenance["protocol"]["fingerprint"] == protocol_fingerprint(current)


def test_a_result_of_version_1_is_read_with_todays_names() -> None:
    content = json.loads(RESULT.to_json())
    content["against"], content["absent"] = content.pop("measured_against"), content.pop("missing")
    content["protocol"] = {**OLD, "weights": content["protocol"]["weights"]}
    result = Result.from_json(json.dumps(content))
    assert result.measured_against == RESULT.measured_against
    assert result.missing == RESULT.missing
    assert result.protocol["k"] == 3
