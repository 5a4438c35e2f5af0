"""Weights of the feature network: what is read, and what is named for what it is."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dit_eval.errors import AssetError
from dit_eval.features.network import read_weights

WEIGHTS = {"weight": torch.arange(3.0)}


def saved(content: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content", [saved(WEIGHTS), saved(WEIGHTS, _use_new_zipfile_serialization=False), save(WEIGHTS)]
)
def test_weights_of_any_format_are_recognised_by_their_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    assert torch.equal(read_weights(tmp_path / "w.bin")["weight"], WEIGHTS["weight"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer to .* LFS. Run `git lfs"),
        (b"<!doctype html>", "it is a web page. Download the file itself"),
        (b"root:x:0:0:root:/root:/bin/bash\n", r"it is a file of unknown format. Expected .* \.pth or"),
        (npy(), "it is a single .npy array"),
        (saved(WEIGHTS)[:-100], "it is a damaged or incomplete zip archive. Make or fetch it again"),
        (b"", "it is a file of unknown format"),
        (pickle.dumps(print), "it is not|cannot be read as weights"),
        (saved([1, 2]), "is not a state dict of tensors"),
    ],
)
def test_anything_else_is_named_for_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(AssetError, match=words):
        read_weights(tmp_path / "w.pth")


def test_a_path_without_a_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no such file; expected the weights"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(AssetError, match="it is a folder"):
        read_weights(tmp_path)
