"""Run the programs that define the encoders' protocols on synthetic weights: `run_encoders OUT.npz PROGRAM`.

torch.hub.load, load_state_dict_from_url and timm.create_model are replaced by functions that load these
weights instead of downloading the published ones. Autocast runs on the CPU, where FD-Loss names CUDA.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from dit_eval.diagnostics.recorded import images, inception_weights
from tests.golden import encoder_weights
from tools.record import quantities

SIZES = (64, 256, 512)  # of one image each
HUB_SIZE = 224
DEPTHS: dict[str, Callable[[Any], Any]] = {
    "short": encoder_weights.cut_short,
    "full": lambda network: network,
}
FDR = {  # FD-Loss's name of a network → our protocol, and the size in eval_all_fds.py
    "convnext": ("fdr-convnext", 256),
    "vit_large_patch14_dinov2.lvd142m": ("fdr-dinov2", 256),
    "vit_large_patch16_224.mae": ("fdr-mae", 224),
    "vit_so400m_patch16_siglip_256.v2_webli": ("fdr-siglip2", 224),
    "vit_large_patch14_clip_224.openai": ("fdr-clip", 256),
}
Arrays = Iterator[tuple[str, Tensor]]


def with_weights(network: nn.Module) -> nn.Module:
    """The network, built without memory, with its synthetic weights."""
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in encoder_weights.build(shapes).items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


def hub_dinov2(depth: str) -> Any:
    """dinov2_vitl14 as torch.hub would load it."""
    with torch.device("meta"):
        network = importlib.import_module("dinov2.hub.backbones").dinov2_vitl14(pretrained=False)
    return with_weights(DEPTHS[depth](network))


def run_dinov2() -> Arrays:
    """The position embeddings of a CLS token and 16×16 patches, some of their channels."""
    network = hub_dinov2("short")
    tokens = torch.zeros(1, 1 + (HUB_SIZE // network.patch_size) ** 2, network.embed_dim)
    positions = network.interpolate_pos_encoding(tokens, HUB_SIZE, HUB_SIZE)
    yield "dinov2_positions", positions[..., :: 16 * encoder_weights.EVERY]


def run_edm2() -> Arrays:
    """EDM2's DINOv2Detector in the mode of its numbers."""
    program = importlib.import_module("calculate_metrics")
    for depth in DEPTHS:
        with patch.object(torch.hub, "load", return_value=hub_dinov2(depth)):
            detector = program.DINOv2Detector()
        for size in SIZES:
            pixels = torch.from_numpy(images.build("reference", 1, size)).permute(0, 3, 1, 2)
            yield f"dinov2_{size}_fp32_{depth}", detector(pixels)


def run_dgm_eval() -> Arrays:
    """dgm-eval's DINOv2Encoder, without its package, which imports the libraries of all other encoders."""
    (root,) = (Path(path) for path in sys.path if Path(path, "dgm_eval").is_dir())
    for package in ("dgm_eval", "dgm_eval.models"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(root.joinpath(*package.split(".")))]
    program = importlib.import_module("dgm_eval.models.dinov2")
    for depth in DEPTHS:
        with patch.object(torch.hub, "load", return_value=hub_dinov2(depth)):
            encoder = program.DINOv2Encoder()
        for size in SIZES:
            (image,) = images.build("reference", 1, size)
            yield f"dinov2-pil_{size}_fp32_{depth}", encoder(encoder.transform(Image.fromarray(image))[None])


def run_fd_loss() -> Arrays:
    """FD-Loss's representation models, as eval_all_fds.py calls them."""
    weights = {name: torch.from_numpy(value) for name, value in inception_weights.build().items()}
    pixels = {size: torch.from_numpy(images.build("reference", 1, size)) for size in SIZES}
    floats = {size: image.permute(0, 3, 1, 2).float() / 255 for size, image in pixels.items()}  # ToTensor
    program = importlib.import_module("frechet_distance.repr_models")
    with patch.object(torch.hub, "load_state_dict_from_url", return_value=weights):
        inception, *_ = program.load_repr_model("inception", device="cpu")
    for size in SIZES:
        yield f"fdr-inception_{size}_fp32_full", inception(floats[size])[0]
    create = timm.create_model
    for depth, cut in DEPTHS.items():

        def create_model(name: str, *, pretrained: bool, cut: Any = cut, **options: Any) -> nn.Module:
            assert pretrained
            with torch.device("meta"):
                return with_weights(cut(create(name, **options)))

        for name, (protocol, target_size) in FDR.items():
            with patch.object(timm, "create_model", create_model):
                model, *_ = program.load_repr_model(name, device="cpu", target_size=target_size)
            for size in SIZES:
                yield f"{protocol}_{size}_fp32_{depth}", model(floats[size])[0]
                with torch.autocast("cpu", enabled=True, dtype=torch.bfloat16):
                    yield f"{protocol}_{size}_bf16_{depth}", model(floats[size])[0]


RUNS = {"DINOv2": run_dinov2, "EDM2": run_edm2, "dgm-eval": run_dgm_eval, "FD-Loss": run_fd_loss}


@torch.inference_mode()
def main(out: Path, program: str) -> None:
    """Write the arrays of encoders.npz that are this program's to `out`."""
    torch.set_num_threads(1)
    arrays = {}
    for name, value in RUNS[program]():
        every = 1 if name == "dinov2_positions" else encoder_weights.EVERY
        arrays[name] = np.ascontiguousarray(value.float().numpy()[..., ::every])
    quantities.save(out, encoders=arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
