"""Class-conditional pipelines of diffusers as models: `diffusers:FOLDER`, or a repository of Hugging Face."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_eval.errors import ModelError, UsageError
from dit_eval.generation.models import ImageModel
from dit_eval.generation.plugins import model_errors
from dit_eval.io.assets import fetch_repository, sha256


def load_pipeline(
    name: str, arguments: Mapping[str, Any], device: torch.device
) -> tuple[ImageModel, dict[str, Any]]:
    """The pipeline in a folder that diffusers' `save_pretrained` wrote, or in a repository, with its
    provenance.

    arguments: further ones of the pipeline's call, such as `eta`. Images depend on their own generators only;
    guidance and steps are those of `--cfg` and `--steps`.
    Raises UsageError if there is no such pipeline or it is not class-conditional, ModelError if it cannot be
    loaded.
    """
    import diffusers  # takes seconds to load

    folder = Path(name) if Path(name).is_dir() else fetch_repository(name)
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"{folder} holds no model_index.json, as diffusers' save_pretrained writes it.")
    with model_errors(f"diffusers, loading {name},"):
        loader: Any = diffusers
        pipeline: Any = loader.DiffusionPipeline.from_pretrained(folder, local_files_only=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    parameters = inspect.signature(pipeline.__call__).parameters
    class_name = json.loads(index.read_text("utf-8")).get("_class_name")
    if "class_labels" not in parameters:
        raise UsageError(
            f"{name} is a {class_name}, which takes no class labels; only class-conditional ones can."
        )
    for key in arguments:
        if key not in parameters:
            raise UsageError(
                f"a {class_name} takes no argument {key!r} (arguments: {', '.join(parameters)})."
            )

    def images(labels: Tensor, generators: list[torch.Generator], cfg: float, steps: int) -> Tensor:
        call = {
            "class_labels": labels.tolist(),
            "batch_size": len(labels),
            "generator": generators,
            "guidance_scale": cfg,
            "num_inference_steps": steps,
            "output_type": "pt",
            **arguments,
        }
        output = pipeline(**{key: value for key, value in call.items() if key in parameters})
        return output.images

    size, classes = _sizes(pipeline, name)
    weights = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".json"))
    source = {
        "plugin": f"diffusers:{name}",
        "arguments": dict(arguments),
        "diffusers": diffusers.__version__,
        "checkpoints": [{"file": str(path.relative_to(folder)), "sha256": sha256(path)} for path in weights],
    }
    return ImageModel(images, image_size=size, num_classes=classes, value_range=(0.0, 1.0)), source


def _sizes(pipeline: Any, name: str) -> tuple[int, int]:
    """Pixels along a side of the images, and the number of classes."""
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    config = getattr(network, "config", {})
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    size = config.get("sample_size")
    if not isinstance(size, int) or not isinstance(classes, int):
        raise ModelError(
            f"{name}: the configuration of its network names no sample_size or number of classes."
        )
    vae = getattr(pipeline, "vae", None)
    return size * (1 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)), classes
