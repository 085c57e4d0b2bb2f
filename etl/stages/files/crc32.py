"""CRC-32 of a run of bytes from the CRC-32s of its parts, as zlib's ``crc32_combine``, which Python lacks."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320


def combine_crc32(first: int, second: int, length: int) -> int:
    """CRC-32 of two runs of bytes, from the CRC-32 of each and the length in bytes of the second."""
    # Appending n zero bytes multiplies a CRC by x^(8n) modulo the polynomial.
    return _multiply(_power(8 * length), first) ^ second


def _multiply(a: int, b: int) -> int:
    """Product of two polynomials over GF(2) modulo that of CRC-32; bits are reflected: the highest bit is x^0."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    power, square = 1 << 31, 1 << 30  # x^0, x^1
    while exponent:
        if exponent & 1:
            power = _multiply(square, power)
        square, exponent = _multiply(square, square), exponent >> 1
    return power
