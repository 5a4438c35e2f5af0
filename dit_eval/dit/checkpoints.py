"""Loading checkpoints into a DiT.

Accepted layouts, recognised by content: a bare state dict as in the public DiT and SiT checkpoints, a
training checkpoint with one under `ema`, and diffusers' layout of DiT; saved as safetensors or by torch, of
which only tensors are unpickled, never code. Tensors are memory-mapped, so loading does not need twice the
memory.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dit_eval.dit.configs import DIT, DiTConfig, model_name
from dit_eval.dit.model import DiT, sincos_pos_embed
from dit_eval.errors import CheckpointError
from dit_eval.io.files import KIND_NAMES, KIND_REMEDIES, file_kind

StateDict = dict[str, Tensor]

_PROJECTORS = "projectors."  # of REPA (Yu et al. 2024)

# diffusers' name → original name. Every diffusers block has its own copy of the embedders of t and y; the
# final layer uses the first block's, and in weights converted from the original all copies are equal.
_EMBEDDERS = r"transformer_blocks\.0\.norm1\.emb"
_DIFFUSERS = {
    r"pos_embed\.(proj\..*)": r"x_embedder.\1",
    r"pos_embed\.pos_embed": r"pos_embed",
    _EMBEDDERS + r"\.timestep_embedder\.linear_1\.(.*)": r"t_embedder.mlp.0.\1",
    _EMBEDDERS + r"\.timestep_embedder\.linear_2\.(.*)": r"t_embedder.mlp.2.\1",
    _EMBEDDERS + r"\.class_embedder\.(.*)": r"y_embedder.\1",
    r"transformer_blocks\.(\d+)\.norm1\.linear\.(.*)": r"blocks.\1.adaLN_modulation.1.\2",
    r"transformer_blocks\.(\d+)\.attn1\.to_([qkv])\.(.*)": r"blocks.\1.attn.\2.\3",
    r"transformer_blocks\.(\d+)\.attn1\.to_out\.0\.(.*)": r"blocks.\1.attn.proj.\2",
    r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.(.*)": r"blocks.\1.mlp.fc1.\2",
    r"transformer_blocks\.(\d+)\.ff\.net\.2\.(.*)": r"blocks.\1.mlp.fc2.\2",
    r"proj_out_1\.(.*)": r"final_layer.adaLN_modulation.1.\1",
    r"proj_out_2\.(.*)": r"final_layer.linear.\1",
}
_EMBEDDER_COPIES = re.compile(r"transformer_blocks\.\d+\.norm1\.emb\.(.*)")


def load_dit(
    path: Path,
    model: str | DiTConfig | None = None,
    *,
    input_size: int | None = None,
    device: torch.device | str = "cpu",
    projectors: bool = False,
) -> DiT:
    """Load a DiT from the checkpoint `path` onto `device`, in float32 and ready for inference.

    model, input_size: the expected model, as in `build_dit`. None stands for what the file holds: the
    registered configuration of that shape, and the latent size of its position embedding (32 if it has none).
    Channels, classes, block and variance are inferred from the weights. projectors: a checkpoint of REPA,
    whose projectors are used in training only and are left out. Raises CheckpointError if the file is not a
    DiT or not the expected one; it names the first tensors that differ and the model that would fit.
    """
    weights = _in_original_layout(_state_dict(read_checkpoint(path), path), path)
    if projectors:
        weights = {key: value for key, value in weights.items() if not key.startswith(_PROJECTORS)}
    elif any(key.startswith(_PROJECTORS) for key in weights):
        raise CheckpointError(
            f"{path} is a checkpoint of REPA (it has projectors), whose time runs the other way than SiT's. "
            "Choose the model REPA-XL/2, or REPA- with the size that it has."
        )
    architecture = _Architecture(weights, path)
    config = _choose_config(model, architecture)
    if input_size is None:
        input_size = architecture.input_size or 32
    with torch.device("meta"):  # allocates nothing; every parameter is assigned below
        dit = DiT(config, input_size, *architecture.arguments())
    weights.setdefault("pos_embed", sincos_pos_embed(config.hidden_size, input_size // config.patch_size))
    _require_same_shapes(weights, dit, path, architecture)
    weights = {key: value.to(device=device, dtype=torch.float32) for key, value in weights.items()}
    dit.load_state_dict(weights, assign=True)
    dit.t_embedder.frequencies = dit.t_embedder.frequencies.to(device)  # not in checkpoints
    return dit.eval().requires_grad_(False)


class _Architecture:
    """What the shapes of a state dict reveal about the model. Raises CheckpointError if it is not a DiT."""

    def __init__(self, weights: StateDict, path: Path) -> None:
        try:
            self.hidden_size, self.in_channels, self.patch_size, _ = weights["x_embedder.proj.weight"].shape
            self.num_classes = len(weights["y_embedder.embedding_table.weight"]) - 1
            out_channels = len(weights["final_layer.linear.weight"]) // self.patch_size**2
            blocks = [int(key.split(".")[1]) for key in weights if key.startswith("blocks.")]
            self.block = self._block(weights)
            self.input_size: int | None = None
            if "pos_embed" in weights:
                self.input_size = self.patch_size * math.isqrt(weights["pos_embed"].shape[1])
        except (LookupError, ValueError, TypeError, ZeroDivisionError) as error:
            found = ", ".join(list(weights)[:3]) or "nothing"
            raise CheckpointError(
                f"{path} does not hold a DiT (expected {error}; first tensors found: {found}). "
                "Pass a checkpoint of DiT or SiT, in the original or the diffusers layout."
            ) from None
        self.learn_sigma = out_channels == 2 * self.in_channels
        self.depth = 1 + max(blocks, default=-1)

    def _block(self, weights: StateDict) -> str:
        if "blocks.0.cross_attn.q.weight" in weights:
            return "cross-attention"
        modulation = weights.get("blocks.0.adaLN_modulation.1.weight")
        if modulation is None:
            return "in-context"
        return "adaln" if len(modulation) == 4 * self.hidden_size else "adaln-zero"

    def arguments(self) -> tuple[int, int, str, bool]:
        """The last arguments of `DiT`."""
        return self.in_channels, self.num_classes, self.block, self.learn_sigma

    def registered_name(self) -> str | None:
        """The name of the registered configuration with this depth, hidden size and patch size."""
        shape = (self.depth, self.hidden_size, self.patch_size)
        names = (name for name, c in DIT.items() if (c.depth, c.hidden_size, c.patch_size) == shape)
        return next(names, None)

    def __str__(self) -> str:
        name = self.registered_name()
        sizes = f"depth {self.depth}, hidden size {self.hidden_size}, patch size {self.patch_size}"
        description = f"DiT-{name}" if name else f"a DiT of {sizes}"
        if self.block != "adaln-zero":
            description += f" ({self.block})"
        if self.input_size is not None:
            description += f" for {self.input_size}×{self.input_size} latents"
        return f"{description} with {self.num_classes} classes"


def _choose_config(model: str | DiTConfig | None, architecture: _Architecture) -> DiTConfig:
    if isinstance(model, DiTConfig):
        return model
    name = architecture.registered_name() if model is None else model_name(model)
    if name is None:
        raise CheckpointError(
            f"the checkpoint is {architecture}: no registered configuration has this shape, and the number "
            "of attention heads cannot be inferred. Pass the configuration as a DiTConfig."
        )
    return DIT[name]


def _require_same_shapes(weights: StateDict, dit: DiT, path: Path, architecture: _Architecture) -> None:
    """Raise CheckpointError with the first tensors that differ between the file and the model."""
    found = {key: tuple(value.shape) for key, value in weights.items()}
    expected = {key: tuple(value.shape) for key, value in dit.state_dict().items()}
    differing = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if not differing:
        return

    def difference(key: str) -> str:
        if key not in found:
            return f"{key} is missing"
        if key not in expected:
            return f"{key} is not expected"
        return f"{key} is {found[key]} and should be {expected[key]}"

    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise CheckpointError(
        f"{path} does not fit the model: {'; '.join(map(difference, differing[:3]))}{more}. "
        f"This looks like {architecture}."
    )


def _in_original_layout(weights: StateDict, path: Path) -> StateDict:
    """The same weights under the names of the public DiT checkpoints."""
    if not any(key.startswith("transformer_blocks.") for key in weights):
        return weights
    _require_equal_copies(weights, path)
    renamed: StateDict = {}
    for key, value in weights.items():
        for pattern, original_name in _DIFFUSERS.items():
            if match := re.fullmatch(pattern, key):
                renamed[match.expand(original_name)] = value
                break
        else:
            if not _EMBEDDER_COPIES.fullmatch(key):
                renamed[key] = value  # unknown; `_require_same_shapes` reports it
    return _with_joined_qkv(renamed)


def _require_equal_copies(weights: StateDict, path: Path) -> None:
    for key, value in weights.items():
        if match := _EMBEDDER_COPIES.fullmatch(key):
            first = weights.get(f"transformer_blocks.0.norm1.emb.{match[1]}")
            if first is None or not torch.equal(first, value):
                raise CheckpointError(
                    f"{path}: {key} differs from the first block's, but a DiT has one embedder for all "
                    "blocks. A model trained from scratch in diffusers is not a DiT of the paper."
                )


def _with_joined_qkv(weights: StateDict) -> StateDict:
    """Replace `attn.q`, `attn.k` and `attn.v` by `attn.qkv`, rows in that order."""
    joined = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)q(\.\w+)", key):
            parts = [weights.get(f"{match[1]}{part}{match[2]}") for part in "qkv"]
            joined[f"{match[1]}qkv{match[2]}"] = torch.cat([part for part in parts if part is not None])
        elif not re.fullmatch(r"blocks\.\d+\.attn\.[kv]\.\w+", key):
            joined[key] = value
    return joined


def read_checkpoint(path: Path, *, weights_only: bool = True) -> Any:
    """The content of a file of weights, memory-mapped on the CPU.

    weights_only: unpickle tensors and plain values only; False also runs code that the file contains.
    Raises CheckpointError if the file cannot be read.
    """
    kind = file_kind(path)
    if kind not in ("safetensors", "torch", "pickle"):
        remedy = KIND_REMEDIES.get(kind, "Pass a file of weights, saved as safetensors or by torch.save.")
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it is {KIND_NAMES[kind]}. {remedy}")
    try:
        if kind == "safetensors":
            return load_file(path)
        return _unpickle(path, mapped=kind == "torch", weights_only=weights_only)
    except pickle.UnpicklingError:
        reason = "its pickle is damaged, or holds more than tensors, and is not executed"
    except Exception as error:  # what torch raises for a damaged file has no common base
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        reason = re.sub(r"^\[enforce fail at .*?\][ .]*", "", reason)  # the C++ source location
        reason = f"it is damaged or incomplete ({reason})"
    raise CheckpointError(
        f"{path} cannot be read as a checkpoint: {reason}. "
        "It must be safetensors, or tensors saved by torch.save."
    )


def _unpickle(path: Path, *, mapped: bool, weights_only: bool) -> Any:
    """The content of a file of torch.save; torch's format before 1.6 is not a zip and cannot be mapped."""
    with (
        torch.serialization.safe_globals([argparse.Namespace]),  # DiT's training script saves its options
        warnings.catch_warnings(action="ignore", category=UserWarning),  # about pickles that are refused
    ):
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=weights_only)


def _state_dict(content: Any, path: Path) -> StateDict:
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]  # the weights that the papers evaluate
    items = content.items() if isinstance(content, dict) else ()
    named = all(isinstance(key, str) and key.isprintable() for key, _ in items)
    if items and named and all(isinstance(value, Tensor) for _, value in items):
        return dict(items)
    found = ", ".join(map(repr, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"{path} does not hold a state dict (found: {found or 'nothing'}). "
        "Expected tensors by name, or a training checkpoint that holds them under 'ema'."
    )
