"""The release's names, cameras and metadata."""

from __future__ import annotations

import re
from pathlib import Path

import cdflib
import defusedxml.ElementTree
import numpy as np
import pytest

from etl.demo import human36m
from schemas.skeletons import H36M_32_TO_17


def table(root: object, name: str) -> list[list[str]]:
    return [[cell.text or "" for cell in row] for row in root.find(name)]  # type: ignore[attr-defined]


def test_file_names_are_as_irregular_as_the_release_s() -> None:
    expected = {
        ("S1", "Eating", 1): "Eating 2",
        ("S1", "TakingPhoto", 1): "TakingPhoto 1",
        ("S5", "TakingPhoto", 1): "Photo",
        ("S5", "Directions", 2): "Directions 2",
        ("S9", "Directions", 1): "Directions 1",
        ("S11", "Phoning", 1): "Phoning 3",
        ("S8", "SittingDown", 1): "SittingDown",
        ("S1", "WalkingDog", 2): "WalkingDog",
        ("S7", "WalkingTogether", 2): "WalkTogether",
    }
    assert {key: human36m.file_prefix(*key) for key in expected} == expected


def test_the_tables_equal_the_real_metadata(samples: Path, tmp_path: Path) -> None:
    real = defusedxml.ElementTree.parse(samples / "h36m" / "metadata.xml").getroot()
    human36m.write_metadata(tmp_path / "metadata.xml", {})
    ours = defusedxml.ElementTree.parse(tmp_path / "metadata.xml").getroot()
    assert table(ours, "mapping")[:33] == table(real, "mapping")[:33]
    assert table(ours, "mapping")[34] == table(real, "mapping")[34]
    assert [len(row) for row in table(ours, "frames")] == [len(row) for row in table(real, "frames")]
    for path in ("dbcameras/index2id", "actionnames"):
        assert [e.text for e in ours.find(path)] == [e.text for e in real.find(path)]
    for tag in ("name", "id", "parent", "posInd", "children"):
        assert [e.findtext(tag) for e in ours.find("skel_pos/tree")] == [
            e.findtext(tag) for e in real.find("skel_pos/tree")
        ]
    w0 = [np.fromstring(root.find("w0").text.strip("[]"), sep=" ") for root in (ours, real)]
    assert w0[0][264:] == pytest.approx(w0[1][264:], abs=6e-5)
    # The miniature's cameras stand elsewhere, but like the release's: by the middle of the walls, at eye level.
    places = [w[:264].reshape(4, 11, 6)[..., 3:] for w in w0]
    assert np.abs(places[0] - places[1]).max() < 1200


def test_the_metadata_describe_the_cameras(tmp_path: Path) -> None:
    frames = {("S5", "Walking", 1): {"54138969": 40, "55011271": 41}}
    human36m.write_metadata(tmp_path / "metadata.xml", frames)
    root = defusedxml.ElementTree.parse(tmp_path / "metadata.xml").getroot()
    w0 = np.array([float(v) for v in root.find("w0").text.strip("[]").split()])
    assert w0.shape == (300,)
    for c, name in enumerate(human36m.CAMERAS):
        for s, subject in enumerate(human36m.SUBJECTS):
            camera = human36m.camera_of(subject, name)
            rx, ry, rz, *place = w0[:264].reshape(4, 11, 6)[c, s]
            # X_c = R (X_w - T), with R put together from scratch.
            a, b, g = -rx, ry, -rz
            turn_x = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
            turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
            turn_z = np.array([[np.cos(g), np.sin(g), 0], [-np.sin(g), np.cos(g), 0], [0, 0, 1]])
            r = turn_x @ turn_y @ turn_z
            point = np.array([0.3, -0.2, 1.1])
            assert camera.world_to_camera(point) == pytest.approx(r @ (point - np.array(place) / 1000), abs=1e-9)
            assert np.linalg.det(np.array(camera.rotation)) == pytest.approx(1)
            # The middle of the room is in the picture's middle, the right way up.
            middle = camera.project(camera.world_to_camera(np.array([[0, 0, 0.9], [0, 0, 1.7]])))
            assert middle[0] == pytest.approx([500, 500], abs=30)
            assert middle[1, 1] < middle[0, 1] - 100
            lens = w0[264:].reshape(4, 9)[c]
            assert (*camera.focal, *camera.center, *camera.radial, *camera.tangential) == pytest.approx(tuple(lens))
            size = re.findall(r"(\d+) (\d+)", table(root, "mapping")[34][2 + s])[c]
            assert (camera.height, camera.width) == tuple(map(int, size))
    assert table(root, "frames")[4][1 + 26] == "[40 41 0 0 81]"


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.3])
def test_small_cameras_see_the_same(scale: float) -> None:
    whole, small = human36m.camera_of("S9", "55011271"), human36m.camera_of("S9", "55011271", scale)
    points = np.random.default_rng(0).normal([0, 0, 5], 0.5, (20, 3))
    # Positions measured from the outer corner of the first pixel scale.
    assert small.project(points) + 0.5 == pytest.approx((whole.project(points) + 0.5) * scale)
    assert small.width % 2 == small.height % 2 == 0
    assert abs(small.width - 1000 * scale) <= 1


def test_pose_files_are_the_release_s(tmp_path: Path) -> None:
    joints = np.random.default_rng(1).normal(size=(7, 32, 3)) * 1000
    human36m.write_poses(tmp_path / "a" / "Walking 1.cdf", joints)
    human36m.write_poses(tmp_path / "a" / "Walking 1.cdf", joints)  # overwrites
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["Walking 1.cdf"]
    cdf = cdflib.CDF(tmp_path / "a" / "Walking 1.cdf")
    pose = cdf["Pose"]
    assert cdf.cdf_info().zVariables == ["Pose"]
    assert (pose.shape, pose.dtype) == ((1, 7, 96), np.float32)
    assert pose[0, 3, 3 * H36M_32_TO_17[2] + 1] == np.float32(joints[3, 2, 1])
    assert (pose.reshape(7, 32, 3) == joints.astype(np.float32)).all()
