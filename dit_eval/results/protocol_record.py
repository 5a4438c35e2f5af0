"""The protocol as results and references record it: its fingerprint, and records of earlier versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_VERSION = 2  # version 1 also covered the protocol's name and descriptions that no code reads
_FIELDS = ("resize", "network", "inception_score_chunk", "k")
_ENCODER_FIELDS = ("normalisation", "feature", "precision")  # of protocols whose network is an encoder


def protocol_fingerprint(record: Mapping[str, Any]) -> str:
    """Twelve hex digits for everything in a protocol that changes the numbers, the weights included.

    record: the fields of `features.protocols.Protocol` or EncoderProtocol, with `weights` as a mapping that
    holds `sha256`.
    """
    fields = {name: record[name] for name in _FIELDS}
    fields |= {name: record[name] for name in _ENCODER_FIELDS if name in record}
    fields |= {"weights_sha256": record["weights"]["sha256"], "version": _VERSION}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def upgraded_protocol(record: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol record as this version writes it.

    Version 1 called k `neighbour` and held descriptions of the spatial features and the probabilities; its
    numbers are the same.
    """
    if "neighbour" not in record:
        return dict(record)
    current = {key: value for key, value in record.items() if key not in ("spatial", "probabilities")}
    current["k"] = current.pop("neighbour")
    return {**current, "fingerprint": protocol_fingerprint(current)}
