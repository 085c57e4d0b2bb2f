from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.stages.join import image_names, is_sorted, match
from schemas import annotation

pairs = st.tuples(st.integers(0, 2), st.integers(0, 5))


@settings(deadline=None)
@given(annotated=st.sets(pairs), found=st.lists(pairs, max_size=12))
def test_match_equals_a_search_row_by_row(annotated, found):
    wanted = sorted(annotated)
    matching = match(np.array(wanted, np.int64).reshape(-1, 2), np.array(found, np.int64).reshape(-1, 2))
    assert matching.target.tolist() == [wanted.index(row) if row in annotated else -1 for row in found]
    assert matching.extra.tolist() == [row not in annotated for row in found]
    assert matching.repeated.tolist() == [row in annotated and row in found[:i] for i, row in enumerate(found)]
    assert matching.missing.tolist() == [row not in found for row in wanted]


def test_large_frame_numbers_do_not_meet_other_people():
    rows = np.array([[0, 2**31 - 1], [1, 0], [1, 2**31 - 1], [2**31 - 1, 0]])
    assert match(rows, rows).target.tolist() == [0, 1, 2, 3]
    assert is_sorted(rows)
    assert not is_sorted(rows[::-1])
    assert not is_sorted(rows[[0, 0, 1]])


def test_image_names_are_the_schemas():
    ds = annotation.mock(frames=3, people=2)
    rows = np.stack([ds["person"].values, ds["frame_number"].values], axis=1)
    assert image_names(ds.attrs["imgname"], rows) == annotation.imgname_of(ds).tolist()
