"""The protocols: all choices that are fixed before a number means something.

Every field but the name changes the numbers, and so do the weights of the network;
`results.comparability.protocol_fingerprint` covers exactly these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dit_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """From image to number, as data.

    resize: a key of `features.resize.RESIZES`; network: a key of `features.extractor.NETWORKS`; weights: the
    name of the network's registered weights in models/manifest.toml; inception_score_chunk: number of images
    per chunk of the inception score, in file order; k: the neighbour whose distance is the radius in
    precision and recall, the point itself not counted.
    """

    name: str
    resize: str
    network: str
    weights: str
    inception_score_chunk: int
    k: int


INCEPTION = "inception-2015-12-05"

# OpenAI's guided-diffusion evaluator (Dhariwal & Nichol 2021): Table 2 of the DiT paper.
_ADM = Protocol(
    name="adm",
    resize="tf1-bilinear",
    network=INCEPTION,
    weights=INCEPTION,
    inception_score_chunk=5000,
    k=3,
)

PROTOCOLS = {
    "adm": _ADM,
    # clean-fid (Parmar et al. 2022): the same network after an antialiased bicubic resize.
    "clean": replace(_ADM, name="clean", resize="clean-fid-bicubic"),
    # The bundled 8×8 digits: the same steps with a network that evaluates 500 images in a second.
    "digits": replace(_ADM, name="digits", resize="none", network="digits", weights="digits-features"),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UsageError with the names there are."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"unknown protocol {name!r} (known: {', '.join(PROTOCOLS)}).") from None
