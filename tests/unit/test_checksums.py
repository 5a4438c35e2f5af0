"""Hashes in threads, and the CRC-32 of concatenated data."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest

from dit_eval.io.checksums import BackgroundHash, crc32_append


@pytest.mark.parametrize("lengths", [(0, 0), (5, 0), (0, 5), (1, 1), (128, 100_000), (12_345, 67)])
def test_crc_of_a_concatenation_follows_from_those_of_its_parts_and_back(lengths: tuple[int, int]) -> None:
    first, second = (np.random.default_rng(n).bytes(n) for n in lengths)
    whole = zlib.crc32(first + second)
    assert crc32_append(zlib.crc32(first), zlib.crc32(second), len(second)) == whole
    assert crc32_append(zlib.crc32(first), whole, len(second)) == zlib.crc32(second)


def test_a_hash_in_a_thread_is_that_of_the_same_data_in_order() -> None:
    blocks = [np.random.default_rng(n).bytes(100_000) for n in range(20)]
    with BackgroundHash(hashlib.sha256()) as background:
        for block in blocks:
            background.update(block)
        assert background.hexdigest() == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_an_error_of_the_hash_is_raised() -> None:
    with BackgroundHash(hashlib.sha256()) as background:
        background.update("text")
        with pytest.raises(TypeError):
            background.hexdigest()
