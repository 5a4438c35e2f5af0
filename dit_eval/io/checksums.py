"""Checksums of data while it is written: hashes in threads of their own, CRC-32 of concatenated parts."""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

_BLOCKS_BEHIND = 4
_CRC32_POLYNOMIAL = 0xEDB88320  # bit 31 is the coefficient of x⁰, as in zlib
_ONE, _X8 = 1 << 31, 1 << 23


class Crc32:
    """CRC-32 with the methods of a hash."""

    def __init__(self) -> None:
        self._crc = 0

    def update(self, data: Any) -> None:
        """Add a buffer of bytes."""
        self._crc = zlib.crc32(data, self._crc)

    def hexdigest(self) -> str:
        """The CRC-32 of all data so far, in eight hexadecimal digits."""
        return f"{self._crc:08x}"


class BackgroundHash:
    """A hash that is updated in a thread of its own, a few blocks behind, which hashlib and zlib allow."""

    def __init__(self, hash: hashlib._Hash | Crc32) -> None:
        self._hash = hash
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def update(self, data: Any) -> None:
        """Add a buffer of bytes, which must not change afterwards."""
        if len(self._pending) == _BLOCKS_BEHIND:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._hash.update, data))

    def hexdigest(self) -> str:
        """The digest of all data so far."""
        while self._pending:
            self._pending.popleft().result()
        return self._hash.hexdigest()

    def __enter__(self) -> BackgroundHash:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)


def crc32_append(crc: int, crc_appended: int, length: int) -> int:
    """The CRC-32 of data followed by `length` bytes, from the CRC-32 of both.

    CRC-32 is a remainder of polynomials: appending n bytes multiplies that of the data by x⁸ⁿ. Because terms
    are added by exclusive or, the same call gives `crc_appended` from the CRC-32 of the whole.
    """
    return _product(_x_to_the(8 * length), crc) ^ crc_appended


@lru_cache(maxsize=16)
def _x_to_the(bits: int) -> int:
    """x to the power of a multiple of 8, modulo the polynomial, by repeated squaring."""
    power, factor, exponent = _ONE, _X8, bits // 8
    while exponent:
        if exponent & 1:
            power = _product(power, factor)
        factor, exponent = _product(factor, factor), exponent >> 1
    return power


def _product(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_CRC32_POLYNOMIAL if b & 1 else 0)
    return product
