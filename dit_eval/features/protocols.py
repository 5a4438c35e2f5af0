"""The protocols: everything that is fixed before a number means something.

One entry of the table is one protocol. Change a field and the fingerprint changes, and with it the
claim that two numbers measure the same thing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from dit_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """From image to number, as data. Field by field in `PROTOCOLS`."""

    name: str
    resize: str  # a name of features.resize.RESIZES
    network: str  # a name of features.extract.NETWORKS
    weights: str  # the registered weights of the network, in models/manifest.toml
    spatial: str  # where the spatial features of sFID are taken
    probabilities: str
    inception_score_chunk: int  # images, in file order
    neighbour: int  # the k of precision and recall, the point itself not counted

    def fingerprint(self, weights_sha256: str) -> str:
        """Twelve hex digits that stand for this protocol with these weights."""
        fields = {**asdict(self), "weights_sha256": weights_sha256}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


# OpenAI's guided-diffusion evaluator (Dhariwal & Nichol 2021): Table 2 of the DiT paper.
_ADM = Protocol(
    name="adm",
    resize="tf1-bilinear",
    network="inception-2015-12-05",
    weights="inception-2015-12-05",
    spatial="Mixed_6d.branch1x1, 17×17, first 7 channels, height-width-channel",
    probabilities="softmax(pool · W), no bias",
    inception_score_chunk=5000,
    neighbour=3,
)

PROTOCOLS = {
    "adm": _ADM,
    # clean-fid (Parmar et al. 2022): the same network behind an antialiased bicubic resize.
    "clean": replace(_ADM, name="clean", resize="clean-fid-bicubic"),
    # The bundled 8×8 digits: every part of adm, at a size that a laptop runs in a second.
    "digits": replace(
        _ADM,
        name="digits",
        resize="none",
        network="digits",
        weights="digits-features",
        spatial="third layer, 4×4, first 8 channels, height-width-channel",
    ),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UsageError with the names there are."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"unknown protocol {name!r} (known: {', '.join(PROTOCOLS)}).") from None
