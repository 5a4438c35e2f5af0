from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from dit_eval.diagnostics.recorded.numbers import expected
from dit_eval.sampling.noise import ImageNoise, normals, philox, random_words

RANDOM123 = [  # known answers that Salmon et al. publish with their generator: counter, key, output
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), RANDOM123)
def test_philox_gives_the_published_answers(counter, key, expected):
    a, b, c, d = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert [int(word) for word in philox((a, b, c, d), (k0, k1))] == words(expected)


def test_normals_are_box_muller_of_the_words():
    drawn = random_words(3, torch.arange(50), 2, 4096).numpy()
    u, v = (drawn[:, 0::2] + 0.5) / 2**32, (drawn[:, 1::2] + 0.5) / 2**32
    angle = 2 * np.pi * v - np.pi
    radius = np.sqrt(-2 * np.log(u))
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(50, -1)
    drawn_normals = normals(3, torch.arange(50), 2, 4096).numpy()
    np.testing.assert_allclose(drawn_normals, expected, rtol=6e-8, atol=2e-14)  # half a unit of float32


def test_normals_at_the_ends_of_the_words_are_finite():
    from dit_eval.sampling.noise import _circle, _sqrt_minus_2_log

    ends = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    radius = _sqrt_minus_2_log(ends)
    assert radius[0] == pytest.approx(np.sqrt(-2 * np.log(2.0**-33)), rel=1e-15)
    assert radius[-1] == pytest.approx(np.sqrt(2.0**-32), rel=1e-6)
    cos, sin = _circle(ends)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos), rtol=0, atol=1e-14)


def test_noise_has_these_bits_on_every_machine():
    """Recorded on an x86-64 server with AVX-512, torch 2.15; other bits would be other batches."""
    noise = expected()["noise"]
    drawn = normals(noise["seed"], torch.tensor(noise["images"]), noise["step"], noise["count"])
    assert hashlib.sha256(drawn.numpy().astype("<f4").tobytes()).hexdigest() == noise["sha256"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_has_the_same_bits_on_a_gpu():
    on_cpu, on_gpu = (normals(1, torch.arange(64, device=device), 4, 4096) for device in ("cpu", "cuda"))
    assert torch.equal(on_cpu, on_gpu.cpu())


@pytest.mark.parametrize("threads", [1, 2])
def test_noise_of_an_image_is_the_same_in_every_batch(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = normals(5, torch.arange(40), 9, 3072)
        for i in (0, 7, 39):
            assert torch.equal(normals(5, torch.tensor([i]), 9, 3072)[0], together[i])
    finally:
        torch.set_num_threads(before)


def test_noise_is_standard_normal():
    drawn = normals(1, torch.arange(256), 4, 4096).numpy().ravel()
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(drawn)) < 5 * np.sqrt(24 / len(drawn))


@pytest.mark.parametrize("other", [(0, 0, 2), (0, 1, 1), (1, 0, 1)], ids=["step", "image", "seed"])
def test_streams_of_other_steps_images_and_seeds_are_independent(other):
    def draw(seed: int, image: int, step: int) -> np.ndarray:
        return normals(seed, torch.tensor([image]), step, 100_000)[0].numpy()

    assert abs(np.corrcoef(draw(0, 0, 1), draw(*other))[0, 1]) < 5 / np.sqrt(100_000)


def test_latents_are_not_the_noise_of_any_step():
    noise = ImageNoise(0, torch.arange(2))
    shape = (2, 4, 8, 8)
    drawn = [noise.latents(shape), noise(0, shape), noise(1, shape)]
    assert len({tensor.numpy().tobytes() for tensor in drawn}) == 3


@pytest.mark.parametrize("at_once", [2, 5, 32])
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 1, 5, 5)])
def test_noise_of_several_steps_at_once_has_the_bits_of_single_steps(shape, at_once, monkeypatch):
    indices = torch.tensor([0, 7, 2**33])
    noise = ImageNoise(2**40 + 3, indices)
    monkeypatch.setattr("dit_eval.sampling.noise._steps_at_once", lambda numbers, device: at_once)
    for step in (0, 1, 2, 3, 4, 5, 40, 41, 2, 249):
        single = normals(2**40 + 3, indices, 1 + step, int(np.prod(shape[1:]))).view(shape)
        assert torch.equal(noise(step, shape), single)
