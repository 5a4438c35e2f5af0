"""The protocols: all choices that are fixed before a number means something.

Every field but the name changes the numbers, and so do the weights of the network;
`results.comparability.protocol_fingerprint` covers exactly these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dit_eval.errors import require_known


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


@dataclass(frozen=True, kw_only=True)
class EncoderProtocol(Protocol):
    """A protocol whose network is an image encoder; it has pool features alone, without classes.

    network: a key of `features.encoders.HUB`, or a model of timm; normalisation: a key of
    `features.encoders.NORMALISATIONS`; feature: a key of `features.encoders.FEATURES`; precision: "fp32", or
    "bf16" for a forward pass under autocast.
    """

    normalisation: str
    feature: str
    precision: str


INCEPTION = "inception-2015-12-05"

# OpenAI's guided-diffusion evaluator (Dhariwal & Nichol 2021): Table 2 of the DiT paper.
_ADM = Protocol(
    name="adm", resize="tf1-bilinear", network=INCEPTION, weights=INCEPTION, inception_score_chunk=5000, k=3
)

# FD-DINOv2 of EDM2 (Karras et al. 2024), whose numbers the papers quote.
_DINOV2 = EncoderProtocol(
    name="dinov2",
    resize="bicubic-224",
    network="dinov2_vitl14",
    weights="dinov2-vit-l-14",
    inception_score_chunk=5000,
    k=3,
    normalisation="imagenet",
    feature="cls",
    precision="fp32",
)

# A space of FDr⁶ (FD-Loss 2026) whose network is an encoder.
_FDR_DINOV2 = replace(
    _DINOV2,
    name="fdr-dinov2",
    resize="unit-bicubic-256",
    network="vit_large_patch14_dinov2.lvd142m",
    precision="bf16",
)

PROTOCOLS: dict[str, Protocol] = {
    "adm": _ADM,
    # clean-fid (Parmar et al. 2022): the same network after an antialiased bicubic resize.
    "clean": replace(_ADM, name="clean", resize="clean-fid-bicubic"),
    # The bundled 8×8 digits: the same steps with a network that evaluates 500 images in a second.
    "digits": replace(_ADM, name="digits", resize="none", network="digits", weights="digits-features"),
    "dinov2": _DINOV2,
    # FD-DINOv2 of dgm-eval (Stein et al. 2023), where it was introduced.
    "dinov2-pil": replace(_DINOV2, name="dinov2-pil", resize="pil-bicubic-224"),
    # The six spaces of FDr⁶. The first is adm with another range of the input.
    "fdr-inception": replace(_ADM, name="fdr-inception", resize="tf1-bilinear-127.5"),
    "fdr-convnext": replace(
        _FDR_DINOV2,
        name="fdr-convnext",
        resize="unit-bicubic-224",
        network="convnextv2_base.fcmae_ft_in22k_in1k",
        weights="convnextv2-base",
        feature="spatial-mean",
    ),
    "fdr-dinov2": _FDR_DINOV2,
    "fdr-mae": replace(
        _FDR_DINOV2,
        name="fdr-mae",
        resize="unit-bicubic-224",
        network="vit_large_patch16_224.mae",
        weights="mae-vit-l-16",
    ),
    "fdr-siglip2": replace(
        _FDR_DINOV2,
        name="fdr-siglip2",
        resize="unit-bicubic-224",
        network="vit_so400m_patch16_siglip_256.v2_webli",
        weights="siglip2-so400m-16",
        normalisation="siglip",
        feature="attention-pool",
    ),
    "fdr-clip": replace(
        _FDR_DINOV2,
        name="fdr-clip",
        network="vit_large_patch14_clip_224.openai",
        weights="clip-vit-l-14",
        normalisation="clip",
    ),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UsageError with the names there are."""
    require_known("protocol", (name,), PROTOCOLS)
    return PROTOCOLS[name]
