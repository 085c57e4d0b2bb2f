from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from schemas import maps
from schemas.errors import SchemaError
from schemas.keys import SequenceKey

KEY = SequenceKey("h36m", "S1", "Directions", 1, "54138969")


def empty(*streams: str) -> xr.Dataset:
    shapes = dict.fromkeys(streams, (5, 4, 3))
    return maps.empty(KEY, np.arange(7), np.zeros(7, int), shapes, dict.fromkeys(maps.STREAMS, "a layer"))


@pytest.mark.parametrize("streams", [("pose",), ("depth",), ("pose", "depth")])
def test_empty_maps_are_valid_and_have_no_values(streams: tuple[str, ...]) -> None:
    ds = maps.validate(empty(*streams))
    assert {str(name).partition("_")[0] for name in ds.data_vars} == set(streams)
    for stream in streams:
        assert ds[f"{stream}_feature_map"].shape == (7, 5, 4, 3)
        assert ds[f"{stream}_feature_map"].isnull().all()
        assert (ds[f"{stream}_grid"] == 0).all()
        assert ds[f"{stream}_feature_map"].attrs == {"layer": "a layer"}
    assert ds["frame_number"].dtype == np.int32
    assert ds.attrs["camera"] == "54138969"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: ds.assign_attrs(schema="xycd features 1"), "have the schema 'xycd maps 1'"),
        (lambda ds: ds.drop_vars("depth_px_to_cell"), "variable 'depth_px_to_cell'"),
        (lambda ds: ds.drop_vars("person"), "variable 'person'"),
        (lambda ds: ds.assign(pose_grid=ds["pose_grid"].astype("int64")), "must be int16"),
        (lambda ds: ds.transpose("pose_row", ...), "'pose_feature_map' is float16 over"),
        (lambda ds: ds.drop_vars(["pose_feature_map", "depth_feature_map"]), "a map of pose or depth"),
    ],
)
def test_what_does_not_fit_is_named(change, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        maps.validate(change(empty("pose", "depth")))
