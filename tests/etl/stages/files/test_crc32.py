from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from etl.stages.files.crc32 import combine_crc32


@settings(deadline=None)
@given(parts=st.lists(st.binary(max_size=50), max_size=6))
def test_crcs_of_parts_make_the_crc_of_the_whole(parts):
    crc = 0
    for part in parts:
        crc = combine_crc32(crc, zlib.crc32(part), len(part))
    assert crc == zlib.crc32(b"".join(parts))


def test_crc_of_parts_longer_than_32_bits_can_count():
    # x^(2^32 - 1) is 1 for CRC-32's primitive polynomial: so many bits of zeros change nothing.
    zeros, order = 2**40, 2**32 - 1
    assert combine_crc32(0x12345678, 0, zeros) == combine_crc32(
        0x12345678, 0, (zeros * 8 % order * pow(8, -1, order)) % order
    )
    assert combine_crc32(0x12345678, 0, zeros) != 0x12345678
