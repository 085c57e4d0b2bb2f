"""The records of a zip file whose sizes are known before its contents, and CRC-32s put together from parts."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

ALIGNMENT: Final = 64  # of the files' first bytes, as of the data within npy files; lets readers map an npz's arrays
_DATE: Final = 0x21  # 1980-01-01, zip's first day: equal arrays make equal files

# Formats: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3. Sizes always stand in the
# zip64 fields, so that headers have the same length whatever the sizes.
_ZIP64, _VERSION, _FULL, _UTF8 = 1, 45, 0xFFFFFFFF, 0x800
_PADDING_ID: Final = 0xD935  # Android's zipalign uses this extra field for the same purpose


def local_header(name: str, size: int, crc: int, offset: int) -> bytes:
    """Header of a stored file at `offset`, padded so that what follows starts at a multiple of ALIGNMENT."""
    encoded = name.encode()
    zip64 = struct.pack("<HHQQ", _ZIP64, 16, size, size)
    unpadded = offset + 30 + len(encoded) + len(zip64) + 4
    padding = -unpadded % ALIGNMENT
    extra = zip64 + struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    fixed = struct.pack(
        "<4s5H3I2H", b"PK\3\4", _VERSION, _UTF8, 0, 0, _DATE, crc, _FULL, _FULL, len(encoded), len(extra)
    )  # fmt: skip
    return fixed + encoded + extra


def directory_entry(name: str, size: int, crc: int, offset: int) -> bytes:
    """Entry of that file in the central directory."""
    encoded = name.encode()
    extra = struct.pack("<HHQQQ", _ZIP64, 24, size, size, offset)
    unix_file = 3 << 8
    fixed = struct.pack(
        "<4s6H3I5H2I",
        b"PK\1\2", unix_file | _VERSION, _VERSION, _UTF8, 0, 0, _DATE, crc, _FULL, _FULL,
        len(encoded), len(extra), 0, 0, 0, 0o600 << 16, _FULL,
    )  # fmt: skip
    return fixed + encoded + extra


def end_records(count: int, size: int, offset: int) -> bytes:
    """What follows a central directory of `count` entries in `size` bytes at `offset`."""
    zip64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    return zip64 + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _FULL, _FULL, 0)


_POLYNOMIAL: Final = 0xEDB88320


def combine_crc(first: int, second: int, length: int) -> int:
    """CRC-32 of two runs of bytes one after the other, from that of each and the length of the second in bytes.

    As zlib's crc32_combine: appending n zero bytes multiplies a CRC by x^(8n) modulo the polynomial.
    """
    return _multiply(_power(8 * length), first) ^ second


def _multiply(a: int, b: int) -> int:
    """Product of polynomials over GF(2) modulo CRC-32's, bits reflected: the highest bit is x^0."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    power = 1 << 31
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            power = _multiply(_square(bit), power)
    return power


@lru_cache(maxsize=128)
def _square(times: int) -> int:
    """X, squared so many times, modulo the polynomial."""
    return _multiply(_square(times - 1), _square(times - 1)) if times else 1 << 30
