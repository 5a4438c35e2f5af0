"""Weights from a file into a DiT: recognise, rename, compare, assign.

Recognised by content, never by name: a bare state dict in the layout of the public DiT and SiT
checkpoints, a training checkpoint that holds one under `ema`, and diffusers' layout of DiT;
pickled by torch (only tensors are unpickled, never code) or as safetensors.
Tensors are mapped from the file, so that a model of 2.7 GB does not need 5.4 GB to be loaded.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dit_eval.dit.configs import DIT, DiTConfig, model_name
from dit_eval.dit.model import DiT, build_dit, position_table
from dit_eval.errors import CheckpointError

StateDict = dict[str, Tensor]

# diffusers' name → ours. Every diffusers block keeps its own copy of the embedders of t and y; the first
# is the one that its final layer uses, and in weights converted from the original they are all equal.
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
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """The DiT whose weights lie in `path`, on `device` in `dtype`, ready for inference.

    model, input_size: what the caller expects, as in `build_dit`. None takes what the file holds: the
    registered configuration of that shape, and the latent size of its position table (32 if it has none).
    Channels, classes, block and variance are read off the weights.
    Raises CheckpointError if the file is no DiT, or not the expected one: with the first tensors that
    differ and the model that would fit.
    """
    weights = _in_original_layout(_read(path), path)
    facts = _Facts(weights, path)
    config = facts.registered_config() if model is None else _config(model)
    if input_size is None:
        input_size = facts.input_size or 32
    with torch.device("meta"):  # no memory, no initialisation: every parameter is assigned below
        dit = build_dit(
            config,
            input_size=input_size,
            in_channels=facts.in_channels,
            num_classes=facts.num_classes,
            block=facts.block,
            learn_sigma=facts.learn_sigma,
        )
    weights.setdefault("pos_embed", position_table(config.hidden_size, input_size // config.patch_size))
    _require_same(weights, dit, path, facts)
    placed = {key: value.to(device=device, dtype=dtype) for key, value in weights.items()}
    dit.load_state_dict(placed, assign=True)
    return dit.eval().requires_grad_(False)


class _Facts:
    """What the shapes of a state dict tell about the model that it was taken from."""

    def __init__(self, weights: StateDict, path: Path) -> None:
        try:
            self.hidden_size, self.in_channels, self.patch_size, _ = weights["x_embedder.proj.weight"].shape
            self.num_classes = len(weights["y_embedder.embedding_table.weight"]) - 1
            out_channels = len(weights["final_layer.linear.weight"]) // self.patch_size**2
        except (KeyError, ValueError) as error:
            found = ", ".join(list(weights)[:3]) or "nothing"
            raise CheckpointError(
                f"{path} holds no DiT: it lacks a well-shaped {error} (its first tensors: {found}). "
                "Give a checkpoint of DiT or SiT, in the original's or in diffusers' layout."
            ) from None
        self.learn_sigma = out_channels == 2 * self.in_channels
        self.depth = 1 + max(
            (int(key.split(".")[1]) for key in weights if key.startswith("blocks.")), default=-1
        )
        self.block = self._block(weights)
        self.input_size: int | None = None
        if "pos_embed" in weights:
            self.input_size = self.patch_size * math.isqrt(weights["pos_embed"].shape[1])

    def _block(self, weights: StateDict) -> str:
        if "blocks.0.cross_attn.q.weight" in weights:
            return "cross-attention"
        regression = weights.get("blocks.0.adaLN_modulation.1.weight")
        if regression is None:
            return "in-context"
        return "adaln" if len(regression) == 4 * self.hidden_size else "adaln-zero"

    def registered_config(self) -> DiTConfig:
        """The registered configuration of this depth, hidden size and patch size."""
        for config in DIT.values():
            if (config.depth, config.hidden_size, config.patch_size) == (
                self.depth,
                self.hidden_size,
                self.patch_size,
            ):
                return config
        raise CheckpointError(
            f"the checkpoint is {self}: no registered configuration has that shape, and the number of "
            "attention heads cannot be inferred. Pass the configuration as a DiTConfig."
        )

    def __str__(self) -> str:
        shape = (self.depth, self.hidden_size, self.patch_size)
        for name, config in DIT.items():
            if (config.depth, config.hidden_size, config.patch_size) == shape:
                words = f"DiT-{name}"
                break
        else:
            words = (
                f"a DiT of depth {self.depth}, hidden size {self.hidden_size}, patch size {self.patch_size}"
            )
        if self.block != "adaln-zero":
            words += f" ({self.block})"
        if self.input_size is not None:
            words += f" for {self.input_size}×{self.input_size} latents"
        return f"{words} with {self.num_classes} classes"


def _config(model: str | DiTConfig) -> DiTConfig:
    return DIT[model_name(model)] if isinstance(model, str) else model


def _require_same(weights: StateDict, dit: DiT, path: Path, facts: _Facts) -> None:
    """Raise CheckpointError with the first tensors in which the file and the model differ."""
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
        f"This looks like {facts}."
    )


def _in_original_layout(weights: StateDict, path: Path) -> StateDict:
    """The same weights under the names of the public DiT checkpoints."""
    if not any(key.startswith("transformer_blocks.") for key in weights):
        return weights
    _require_equal_copies(weights, path)
    renamed: StateDict = {}
    for key, value in weights.items():
        for theirs, ours in _DIFFUSERS.items():
            if match := re.fullmatch(theirs, key):
                renamed[match.expand(ours)] = value
                break
        else:
            if not _EMBEDDER_COPIES.fullmatch(key):
                renamed[key] = value  # unknown: `_require_same` names it
    return _with_joined_qkv(renamed)


def _require_equal_copies(weights: StateDict, path: Path) -> None:
    for key, value in weights.items():
        if match := _EMBEDDER_COPIES.fullmatch(key):
            first = weights.get(f"transformer_blocks.0.norm1.emb.{match[1]}")
            if first is None or not torch.equal(first, value):
                raise CheckpointError(
                    f"{path}: {key} differs from the first block's, but a DiT has one embedder for all. "
                    "Trained in diffusers from scratch, this is not a DiT of the paper."
                )


def _with_joined_qkv(weights: StateDict) -> StateDict:
    """Replace `attn.q`, `attn.k` and `attn.v` by `attn.qkv`, rows in that order."""
    joined = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)q(\.\w+)", key):
            parts = [value, *(weights[f"{match[1]}{part}{match[2]}"] for part in "kv")]
            joined[f"{match[1]}qkv{match[2]}"] = torch.cat(parts)
        elif not re.fullmatch(r"blocks\.\d+\.attn\.[kv]\.\w+", key):
            joined[key] = value
    return joined


def _read(path: Path) -> StateDict:
    """The state dict in a file, on the CPU and mapped from it. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file. Give a checkpoint (.pt, .pth, .bin or .safetensors).")
    try:
        content = load_file(path) if _is_safetensors(path) else _unpickle(path)
    except pickle.UnpicklingError:
        reason = "its pickle holds more than tensors, and is not run"
    except (EOFError, KeyError):  # where a text ends that was taken for a pickle
        reason = "it is damaged or of another kind"
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = re.sub(r"^\[enforce fail at .*?\][ .]*", "", reason)  # torch's line of C++
    else:
        return _state_dict(content, path)
    raise CheckpointError(
        f"{path} cannot be read as a checkpoint: {reason}. "
        "It must be safetensors, or tensors saved by torch.save."
    )


def _is_safetensors(path: Path) -> bool:
    """True if the file starts with a header's length and the header's brace."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _unpickle(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)  # torch's format before 1.6 is no zip and cannot be mapped
    with (
        torch.serialization.safe_globals([argparse.Namespace]),  # DiT's trainer keeps its options beside
        warnings.catch_warnings(action="ignore", category=UserWarning),  # about pickles that it refuses
    ):
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def _state_dict(content: Any, path: Path) -> StateDict:
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]  # the weights that the papers evaluate
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        return dict(content)
    held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"{path} holds no state dict (found: {held or 'nothing'}). "
        "Expected tensors by name, or a training checkpoint that holds them under 'ema'."
    )
