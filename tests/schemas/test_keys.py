from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SchemaError
from schemas.keys import SequenceKey

names = st.text(min_size=1, max_size=30).filter(lambda s: s.isprintable())


def test_path_is_readable() -> None:
    key = SequenceKey("h36m", "S1", "Directions", 1, "54138969")
    assert str(key.path) == "subject=S1/action=Directions/subaction=1/camera=54138969"


@given(subject=names, action=names, camera=names, subaction=st.integers(0, 99))
def test_any_name_is_one_safe_component_and_comes_back(subject: str, action: str, camera: str, subaction: int) -> None:
    key = SequenceKey("folder", subject, action, subaction, camera)
    assert len(key.path.parts) == 4
    assert not {"..", "."} & set(key.path.parts)
    assert SequenceKey.from_path("folder", key.path / "0-5.nc") == key


def test_a_strangers_path_is_refused() -> None:
    with pytest.raises(SchemaError, match="subject="):
        SequenceKey.from_path("h36m", "S1/Directions")
