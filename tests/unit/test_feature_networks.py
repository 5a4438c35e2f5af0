"""The encoders of FD-DINOv2 and FDr⁶ on tiny networks of the same kinds, and what their protocols record."""

from __future__ import annotations

import ast
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from dit_eval.diagnostics.recorded.images import build
from dit_eval.errors import AssetError, UnreachableError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.features import encoders
from dit_eval.features.encoders import FEATURES, HUB, NORMALISATIONS, resized_positions
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import INCEPTION, PROTOCOLS, EncoderProtocol, Protocol
from dit_eval.features.resize import (
    RESIZES,
    bicubic,
    pil_bicubic,
    tf1_bilinear,
    tf1_bilinear_half,
    unit_bicubic,
)
from dit_eval.io import assets
from dit_eval.results.protocol_record import protocol_fingerprint
from tests.tiny_encoders import ENCODERS, TINY, tiny, weights_of

CPU = torch.device("cpu")
RNG = np.random.default_rng(6)
IMAGES = RNG.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each tiny network, a file of its weights."""
    folder = tmp_path_factory.mktemp("encoders")
    paths = {network: folder / f"{network}.safetensors" for network in TINY.values()}
    for network, path in paths.items():
        save_file(weights_of(network), path)
    return paths


def extractor(protocol: EncoderProtocol, files: dict[str, Path]) -> FeatureExtractor:
    return FeatureExtractor(protocol, files[HUB.get(protocol.network, protocol.network)], CPU)


def written_down(protocol: EncoderProtocol, images: np.ndarray) -> Tensor:
    """The features in float32 as FD-Loss describes them, from timm alone."""
    options: dict[str, Any] = (
        {} if protocol.feature == "spatial-mean" else {"dynamic_img_size": True, "dynamic_img_pad": True}
    )
    network: Any = timm.create_model(protocol.network, **options).eval()
    network.load_state_dict(weights_of(protocol.network))
    size = int(protocol.resize.removeprefix("unit-bicubic-"))
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = torch.nn.functional.interpolate(x, (size, size), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[protocol.normalisation])
    with torch.inference_mode():
        last = network.forward_features((x - mean) / std)
        if protocol.feature == "spatial-mean":
            return last.mean((2, 3))
        return network.attn_pool(last) if protocol.feature == "attention-pool" else last[:, 0]


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("fdr-")])
def test_features_are_those_of_timm_behind_fd_losss_input(name: str, files: dict[str, Path]) -> None:
    protocol = tiny(name, precision="fp32")
    found = extractor(protocol, files)(IMAGES)
    expected = written_down(protocol, IMAGES).numpy()
    assert np.linalg.norm(found.pool - expected) <= 1e-5 * np.linalg.norm(expected)
    assert found.pool.dtype == np.float32


@pytest.mark.parametrize("name", ENCODERS)
def test_only_pool_features_are_given(name: str, files: dict[str, Path]) -> None:
    tiny_extractor = extractor(tiny(name), files)
    features = tiny_extractor(IMAGES)
    assert tiny_extractor.dimensions == (features.pool.shape[1], 0, 0)
    assert [part.shape for part in features[1:]] == [(len(IMAGES), 0)] * 2


@pytest.mark.parametrize("feature", FEATURES)
def test_bf16_rounds_within_the_network_and_features_are_float32(
    feature: str, files: dict[str, Path]
) -> None:
    (name,) = (
        name for name in ("fdr-mae", "fdr-siglip2", "fdr-convnext") if ENCODERS[name].feature == feature
    )
    bf16, fp32 = (extractor(tiny(name, precision=p), files)(IMAGES).pool for p in ("bf16", "fp32"))
    assert bf16.dtype == np.float32
    error = np.linalg.norm(bf16 - fp32) / np.linalg.norm(fp32)
    assert 2**-12 < error < 2**-5  # of one rounding to bf16 2⁻⁹
    with torch.autocast("cpu", torch.bfloat16):  # the caller's own setting changes neither
        assert (extractor(tiny(name, precision="fp32"), files)(IMAGES).pool == fp32).all()
    assert (extractor(tiny(name, precision="bf16"), files)(IMAGES).pool == bf16).all()


def test_images_that_no_patch_fits_are_padded_with_zeros_after_normalisation(files: dict[str, Path]) -> None:
    network = extractor(tiny("fdr-clip", precision="fp32"), files)._network
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)[..., :90, :83] / 255
    mean = torch.tensor(NORMALISATIONS["clip"][0]).view(3, 1, 1)
    padded = mean.expand(len(x), 3, 96, 96).clone()  # of value 0 once it is normalised
    padded[..., :90, :83] = x
    with torch.inference_mode():
        assert torch.allclose(network(x).pool, network(padded).pool, rtol=1e-5, atol=1e-5)


def bicubic_by_definition(values: np.ndarray, size: int, scale: float) -> np.ndarray:
    """(M, M, D) → (size, size, D) in float64: Keys' kernel with a = -0.75, positions (i + ½)/scale - ½."""

    def kernel(distance: np.ndarray) -> np.ndarray:
        t, a = np.abs(distance), -0.75
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0))

    position = (np.arange(size) + 0.5) / scale - 0.5
    taps = np.floor(position)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((size, len(values)))
    for tap, weight in zip(taps.T, kernel(position[:, None] - taps).T, strict=True):
        np.add.at(matrix, (np.arange(size), tap.clip(0, len(values) - 1).astype(int)), weight)
    return np.einsum("ij,jkd,lk->ild", matrix, values, matrix)


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (10, 14)])
def test_positions_are_resized_by_torch_hubs_rule(side: int, grid: int) -> None:
    positions = torch.from_numpy(RNG.standard_normal((1, 1 + side**2, 6)))
    found = resized_positions(positions, grid)
    patches = positions[0, 1:].numpy().reshape(side, side, 6)
    expected = bicubic_by_definition(patches, grid, (grid + 0.1) / side).reshape(grid**2, 6)
    assert torch.equal(found[:, :1], positions[:, :1])
    assert np.abs(found[0, 1:].numpy() - expected).max() <= 1e-6  # torch's scale is float32
    timms = resample_abs_pos_embed(positions.float(), [grid, grid])
    assert (timms - found).abs().max() > 0.05
    assert resized_positions(found, grid) is found


def test_torch_hubs_network_is_timms_with_resized_positions(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HUB, "tiny", TINY["cls"])
    protocol = tiny("dinov2", network="tiny")
    found = extractor(protocol, files)(IMAGES).pool
    monkeypatch.setattr(encoders, "resized_positions", lambda positions, grid: positions)
    with pytest.raises(AssetError, match="pos_embed"):
        extractor(protocol, files)
    timms = extractor(tiny("dinov2"), files)(IMAGES).pool
    assert np.linalg.norm(found - timms) > 1e-4 * np.linalg.norm(timms)


def test_resizes_of_fd_dinov2() -> None:
    images = torch.from_numpy(IMAGES)
    pixels = images.permute(0, 3, 1, 2).float()
    assert torch.equal(bicubic(images, 96), pixels / 255)  # its own size: exact
    squares = torch.from_numpy(np.kron(np.eye(8), np.ones((12, 12)))[None, ..., None] * 255).byte()
    assert bicubic(squares, 224).aminmax() == pytest.approx((-0.07, 1.07), abs=0.05)  # not clipped
    assert (unit_bicubic(images, 224) - bicubic(images, 224)).abs().max() <= 1e-6
    resize = RESIZES["pil-bicubic-224"]
    assert resize.on_host is not None
    on_host = np.stack([resize.on_host(image) for image in IMAGES])
    expected = Image.fromarray(IMAGES[1]).resize((224, 224), Image.Resampling.BICUBIC)
    assert on_host.dtype == np.uint8
    assert (on_host[1] == np.asarray(expected)).all()
    found = resize.on_device(torch.from_numpy(on_host))
    assert torch.equal(found * 255, (found * 255).round())
    assert torch.equal(found[1].permute(1, 2, 0) * 255, torch.from_numpy(np.array(expected)).float())


def test_shrinking_is_antialiased_and_rounds_for_pillow_only() -> None:
    images = build("reference", 1, 512)
    pixels = bicubic(torch.from_numpy(images), 224) * 255
    rounded = torch.from_numpy(pil_bicubic(images[0], 224).copy()).permute(2, 0, 1).float()
    assert (pixels - rounded).abs().max() <= 3
    assert not torch.equal(pixels, pixels.round())


def test_the_input_of_fd_losss_inception_has_another_centre() -> None:
    images = torch.from_numpy(IMAGES)
    pixels = tf1_bilinear(images).double() * 128 + 128
    assert (tf1_bilinear_half(images) - (pixels / 127.5 - 1)).abs().max() <= 2e-7
    grey = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 4, 4, 3)
    assert tf1_bilinear_half(grey).mean(dim=(1, 2, 3)).tolist() == pytest.approx([-1, 1])
    adm, fdr = PROTOCOLS["adm"], PROTOCOLS["fdr-inception"]
    assert replace(adm, name=fdr.name, resize=fdr.resize) == fdr
    assert fdr.network == INCEPTION


def test_weights_of_another_network_are_refused_in_one_sentence(
    files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AssetError, match=r"does not contain the weights of test_vit\.r160_in1k \(missing: "):
        FeatureExtractor(tiny("fdr-mae"), files[TINY["spatial-mean"]], CPU)
    weights = weights_of(TINY["cls"])
    save_file({**weights, "decoder": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(AssetError, match=r"\(unknown: decoder\)"):
        FeatureExtractor(tiny("fdr-mae"), tmp_path / "more.safetensors", CPU)
    save_file({**weights, "norm.bias": torch.zeros(2)}, tmp_path / "shape.safetensors")
    with pytest.raises(AssetError, match=r"\(size mismatch for norm\.bias"):
        FeatureExtractor(tiny("fdr-mae"), tmp_path / "shape.safetensors", CPU)


def test_published_files_may_hold_a_mask_token_and_half_precision(
    files: dict[str, Path], tmp_path: Path
) -> None:
    weights = {name: value.half() for name, value in weights_of(TINY["cls"]).items()}
    torch.save({**weights, "mask_token": torch.zeros(1, 64)}, tmp_path / "facebook.pth")
    found = FeatureExtractor(tiny("fdr-mae"), tmp_path / "facebook.pth", CPU)(IMAGES).pool
    expected = extractor(tiny("fdr-mae"), files)(IMAGES).pool
    assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_protocols_name_what_exists(name: str) -> None:
    protocol = ENCODERS[name]
    assert protocol.resize in RESIZES
    entry = assets.lookup("models", protocol.weights)
    assert entry.role == "features"
    assert not entry.bundled
    config = timm.get_pretrained_cfg(HUB.get(protocol.network, protocol.network))
    assert config is not None
    assert NORMALISATIONS[protocol.normalisation] == (config.mean, config.std)
    with pytest.raises(UnreachableError, match="--offline forbids the download"):
        load_extraction(name, offline=True)


def test_weights_for_non_commercial_use_are_marked() -> None:
    for name in ("mae-vit-l-16", "convnextv2-base"):
        entry = assets.lookup("models", name)
        assert entry.licence == "CC-BY-NC-4.0"
        assert "non-commercial use only" in entry.source


def record(protocol: Protocol) -> dict[str, object]:
    return {**asdict(protocol), "weights": {"sha256": "ab" * 32}}


def test_every_field_of_an_encoder_but_the_names_changes_the_fingerprint() -> None:
    before = protocol_fingerprint(record(ENCODERS["fdr-clip"]))
    changes = {"resize": "unit-bicubic-224", "network": "dinov2_vitl14", "inception_score_chunk": 10, "k": 5}
    changes |= {"normalisation": "siglip", "feature": "attention-pool", "precision": "fp32"}
    assert {field.name for field in fields(EncoderProtocol)} == {"name", "weights", *changes}
    for name, value in changes.items():
        assert protocol_fingerprint(record(replace(ENCODERS["fdr-clip"], **{name: value}))) != before
    assert len({protocol_fingerprint(record(protocol)) for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_earlier_protocols_are_recorded_as_before() -> None:
    sha256 = assets.lookup("models", INCEPTION).sha256
    before = {"adm": "5b76e6d840be", "clean": "151d768494af", "digits": "387414bf7bb5"}
    for name, fingerprint in before.items():
        unchanged = asdict(PROTOCOLS[name])
        assert unchanged.keys() == {"name", "resize", "network", "weights", "inception_score_chunk", "k"}
        assert protocol_fingerprint({**unchanged, "weights": {"sha256": sha256}}) == fingerprint


def test_timm_is_imported_within_functions_only() -> None:
    package = Path(encoders.__file__).parents[1]
    for path in package.rglob("*.py"):
        statements = ast.parse(path.read_text("utf-8")).body
        imports = [ast.unparse(node) for node in statements if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("timm" in text for text in imports), path
