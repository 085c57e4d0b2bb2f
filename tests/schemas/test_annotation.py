from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from schemas import annotation
from schemas.errors import SchemaError
from schemas.keys import SequenceKey


@pytest.mark.parametrize("ground_truth", [True, False])
def test_mock_is_valid_and_survives_netcdf(tmp_path: Path, ground_truth: bool) -> None:
    ds = annotation.mock(people=2, ground_truth=ground_truth)
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as back:
        annotation.validate(back)
        assert annotation.has_ground_truth(back) == ground_truth
        assert annotation.key_of(back) == SequenceKey("h36m", "S1", "Directions", 1, "54138969")
        assert annotation.camera_of(back) == annotation.camera_of(ds)
        assert annotation.imgname_of(back)[1] == "S1/S1_Directions_1.54138969_000002.jpg"
        if ground_truth:
            np.testing.assert_array_equal(back["keypoints_3d"], ds["keypoints_3d"])


@pytest.mark.parametrize(("given", "words"), [("keypoints_2d", "only 2D"), ("keypoints_3d", "only 3D")])
def test_half_a_ground_truth_is_refused(given: str, words: str) -> None:
    ds = annotation.mock(frames=2)
    texts = ("split", "release_name", "media_bytes", "rate_hz", "media_rate_hz", "imgname", "joint_source")
    with pytest.raises(SchemaError, match=words):
        annotation.build(
            annotation.key_of(ds),
            frame_number=np.arange(2),
            **{given: ds[given].values},
            camera=None,
            media={},
            provenance={},
            **{name: ds.attrs[name] for name in texts},
        )


def test_a_moving_camera_has_rotation_and_translation() -> None:
    ds = annotation.mock(frames=2)
    ds["camera_rotation"] = (("frame", "camera_axis", "world_axis"), np.tile(np.eye(3), (2, 1, 1)))
    with pytest.raises(SchemaError, match="'camera_translation'"):
        annotation.validate(ds)
    ds["camera_translation"] = (("frame", "camera_axis"), np.zeros((2, 3), np.float32))
    with pytest.raises(SchemaError, match="'camera_translation' is float32"):
        annotation.validate(ds)
    ds["camera_translation"] = ds["camera_translation"].astype(np.float64)
    assert annotation.validate(ds) is ds


def test_boxes_are_mmposes() -> None:
    xy = np.zeros((1, 17, 2))
    xy[0, :, 0] = np.linspace(100, 300, 17)
    xy[0, :, 1] = np.linspace(50, 750, 17)
    center, scale = annotation.boxes(xy)
    assert center.tolist() == [[200, 400]]
    assert scale.tolist() == pytest.approx([1.2 * 700 / 200])


def test_boxes_leave_out_unknown_joints() -> None:
    xy = np.full((2, 17, 2), np.nan)
    xy[0, :2] = [[10, 20], [30, 60]]
    center, scale = annotation.boxes(xy)
    assert center[0].tolist() == [20, 40]
    assert scale[0] == pytest.approx(1.2 * 40 / 200)
    assert np.isnan(center[1]).all()
    assert np.isnan(scale[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: ds.drop_vars("keypoints_3d"), "keypoints_3d"),
        (lambda ds: ds.assign(scale=ds["scale"].astype("float32")), "scale.*float64"),
        (lambda ds: ds.isel(joint=slice(None, None, -1)), "H36M_17"),
        (lambda ds: ds.isel(frame=slice(None, None, -1)), "sorted"),
        (lambda ds: ds.isel(frame=[0, 0, 1]), "once"),
        (lambda ds: ds.drop_attrs().assign_attrs(dataset="h36m"), "action"),
    ],
)
def test_validate_names_what_is_wrong(change: object, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        annotation.validate(change(annotation.mock()))  # type: ignore[operator]
