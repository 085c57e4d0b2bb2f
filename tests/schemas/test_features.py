from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from schemas import features
from schemas.errors import SchemaError
from schemas.features import Status
from schemas.keys import SequenceKey


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("channels", [(0, 0), (8, 4)])
def test_mock_is_valid_and_survives_netcdf(tmp_path: Path, statistics: bool, channels: tuple[int, int]) -> None:
    ds = features.mock(statistics=statistics, pose_channels=channels[0], depth_channels=channels[1])
    ds.to_netcdf(tmp_path / "f.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "f.nc", engine="netcdf4") as back:
        features.validate(back)
        np.testing.assert_array_equal(back["features"], ds["features"])
        assert back["status"].attrs["flag_meanings"].split()[Status.DECODE_ERROR] == "decode_error"
        assert json.loads(back.attrs["feature_units"])["depth"] == "m"
        for name in features.EMBEDDINGS:
            assert (name in back) == bool(channels[0])


def test_float16_bits_come_back() -> None:
    values = np.array([0.0, 1.5, -2.25, 65504, np.inf, np.nan], np.float16)
    np.testing.assert_array_equal(features.decode_float16(features.encode_float16(values)), values)


def test_empty_rows_have_not_run() -> None:
    ds = features.empty(SequenceKey("h36m", "S1", "Walking", 1, "0"), np.arange(3), np.zeros(3, int), pose_channels=2)
    assert (ds["status"] == Status.NOT_RUN).all()
    assert np.isnan(ds["features"]).all()
    assert np.isnan(features.decode_float16(ds["pose_embedding"].values)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: ds.drop_vars("status"), "status"),
        (lambda ds: ds.assign(bbox=ds["bbox"].astype("float64")), "bbox.*float32"),
        (lambda ds: ds.isel(joint=slice(None, None, -1)), "H36M_17"),
        (lambda ds: ds.isel(feature=slice(None, None, -1)), "start with"),
        (lambda ds: ds.assign(status=ds["status"] + np.int8(9)), "one of the flags"),
        (lambda ds: ds.assign(status=ds["status"] + np.int8(1)), "NaN where status"),
        (lambda ds: ds.assign_attrs(schema="something else"), "schema"),
    ],
)
def test_validate_names_what_is_wrong(change: object, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        features.validate(change(features.mock()))  # type: ignore[operator]
