"""The miniature on disk: poses, videos, truth and their agreement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import cdflib
import numpy as np
import pytest

from etl.datasets.human36m.reader import Human36M
from etl.datasets.sampling import picture_size
from etl.demo import human36m
from etl.demo.human36m import CUT, DEMO, Plan
from etl.demo.miniature import MARKER, render
from etl.demo.truth import SequenceTruth, read_truth
from etl.errors import ConfigError
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_32_TO_17
from tests.etl.demo.conftest import SMALL
from tests.etl.miniatures import frames_of


def poses(folder: Path, subject: str, kind: str, name: str) -> np.ndarray:
    values = cdflib.CDF(folder / subject / "MyPoseFeatures" / kind / f"{name}.cdf")["Pose"]
    return values.reshape(values.shape[1], 32, -1).astype(np.float64)


def size_of(subject: str, name: str) -> tuple[int, int]:
    camera = human36m.camera_of(subject, name)
    return camera.width, camera.height


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 50
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_pose_files_agree_with_each_other_and_with_the_cameras(miniature: Path) -> None:
    for key in SMALL.sequences():
        camera = human36m.camera_of(key.subject, key.camera, SMALL.scale)
        name = human36m.file_prefix(key.subject, key.action, key.subaction)
        world = poses(miniature, key.subject, "D3_Positions", name)
        mono = poses(miniature, key.subject, "D3_Positions_mono", f"{name}.{key.camera}")
        flat = poses(miniature, key.subject, "D2_Positions", f"{name}.{key.camera}")
        assert len(world) == len(mono) == len(flat) == SMALL.frames
        assert camera.world_to_camera(world / 1000) * 1000 == pytest.approx(mono, abs=2e-3)
        assert camera.project(mono) == pytest.approx(flat, abs=1e-4)
        assert (flat > 0).all()
        assert (flat < [camera.width, camera.height]).all()
        joints = flat[:, list(H36M_32_TO_17)]
        assert SequenceTruth.read(read_truth(miniature)[key]).h36m_2d[: SMALL.frames] == pytest.approx(joints, abs=1e-4)


def test_sides_hold_in_the_files(miniature: Path) -> None:
    mono = poses(miniature, "S9", "D3_Positions_mono", "Walking 1.54138969")[:, list(H36M_32_TO_17)]
    assert (((mono[:, 14] - mono[:, 11]) * (mono[:, 1] - mono[:, 4])).sum(-1) > 0).all()
    facing = np.cross(mono[:, 1] - mono[:, 4], mono[:, 8] - mono[:, 0])
    assert ((facing * (mono[:, 9] - mono[:, 8])).sum(-1) < 0).all()


def test_videos_show_the_frames_in_order(miniature: Path) -> None:
    for key in SMALL.sequences():
        camera = human36m.camera_of(key.subject, key.camera, SMALL.scale)
        name = human36m.file_prefix(key.subject, key.action, key.subaction)
        decoded = decode(miniature / key.subject / "Videos" / f"{name}.{key.camera}.mp4")
        longer = (key.subject, key.action, key.camera) == ("S1", "Directions", "55011271")
        assert len(decoded) == SMALL.frames + longer
        rendered = [picture.image for _, picture in frames_of(key, camera, len(decoded))]
        error = np.array([[((a.astype(float) - b) ** 2).mean() for b in rendered] for a in decoded])
        assert (error.argmin(1) == np.arange(len(decoded))).all()
        assert 10 * np.log10(255**2 / error.diagonal().max()) > 30  # PSNR, dB


def test_sizes_are_the_release_s() -> None:
    sizes = {c: size_of("S1", c) for c in human36m.CAMERAS}
    assert sizes == {
        "54138969": (1000, 1002),
        "55011271": (1000, 1000),
        "58860488": (1000, 1000),
        "60457274": (1000, 1002),
    }
    assert {size_of("S7", c) for c in human36m.CAMERAS} == {(1000, 1002)}


def test_a_complete_miniature_is_left_alone(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in miniature.rglob("*")}
    monkeypatch.setattr(Plan, "record", None)
    render(miniature, SMALL, workers=1)
    assert {p: p.stat().st_mtime_ns for p in miniature.rglob("*")} == before
    with pytest.raises(ConfigError, match="Remove the folder"):
        render(miniature, replace(SMALL, frames=3), workers=1)
    assert {p: p.stat().st_mtime_ns for p in miniature.rglob("*")} == before


def test_an_interrupted_rendering_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(subjects=("S5",), actions=("Posing",), frames=2, scale=0.1)
    real, calls = Plan.record, []

    def stop(self: Plan, folder: Path, key: SequenceKey) -> None:
        calls.append(key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, folder, key)

    monkeypatch.setattr(Plan, "record", stop)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, plan, workers=1)
    seen: list[tuple[int, int]] = []
    render(tmp_path, plan, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (5, 5)]  # the second camera's video is a frame longer
    files = json.loads((tmp_path / MARKER).read_text())["files"]
    assert set(files) == {
        "metadata.xml",
        *(f"S5/Videos/Posing 1.{c}.mp4" for c in Plan.cameras),
        "S5/MyPoseFeatures/D3_Positions/Posing 1.cdf",
        *(
            f"S5/MyPoseFeatures/{d}/Posing 1.{c}.cdf"
            for c in Plan.cameras
            for d in ("D2_Positions", "D3_Positions_mono")
        ),
        *(f"S5/MyPoseFeatures/{d}/_ALL 1.{c}.cdf" for c in Plan.cameras for d in ("D2_Positions", "D3_Positions_mono")),
        *(f"truth/S5/Posing 1.{c}.npz" for c in Plan.cameras),
    }
    # A file that is lost is made again.
    (tmp_path / "S5/Videos/Posing 1.54138969.mp4").unlink()
    render(tmp_path, plan, workers=1)
    assert (tmp_path / "S5/Videos/Posing 1.54138969.mp4").stat().st_size == files["S5/Videos/Posing 1.54138969.mp4"]


@pytest.mark.slow
def test_workers_make_the_same_files(tmp_path: Path) -> None:
    plan = Plan(subjects=("S1",), actions=("Walking",), frames=3, scale=0.1)
    for workers in (1, 2):
        render(tmp_path / str(workers), plan, workers=workers)
    one, two = (sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in "12")
    assert [p.relative_to(tmp_path / "1") for p in one] == [p.relative_to(tmp_path / "2") for p in two]
    for a, b in zip(one, two, strict=True):
        if a.suffix != ".cdf":  # cdflib writes the date
            assert a.read_bytes() == b.read_bytes(), a


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "S1").mkdir()
    with pytest.raises(ConfigError, match="Choose another folder"):
        render(tmp_path, Plan(), workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["S1"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Plan(subjects=("S12",)), "S12"),
        (Plan(actions=("Sitting",)), "Sitting"),
        (Plan(cameras=("1",)), "54138969"),
        (Plan(subactions=(3,)), "3"),
        (Plan(frames=0), "frames 0"),
        (Plan(subjects=()), "none"),
    ],
)
def test_what_can_t_be_rendered_is_refused_at_once(tmp_path: Path, wrong: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(tmp_path / "new", wrong, workers=1)
    assert not (tmp_path / "new").exists()


def test_cameras_see_one_moment(miniature: Path) -> None:
    truths = read_truth(miniature)
    for action in SMALL.actions:
        worlds = []
        for name in SMALL.cameras:
            truth = SequenceTruth.read(truths[SequenceKey("h36m", "S9", action, 1, name)])
            turn, shift = np.array(truth.camera.rotation), np.array(truth.camera.translation)
            worlds.append((truth.h36m_3d[: SMALL.frames] - shift) @ turn)
        assert worlds[0] == pytest.approx(worlds[1], abs=1e-9)


def test_the_demo_has_irregular_names_tall_images_and_a_video_shorter_than_its_poses(tmp_path: Path) -> None:
    keys = DEMO.sequences()
    assert {key.subject for key in keys} == {"S1", "S5", "S7", "S9"}
    assert sum(map(DEMO.video_frames, keys)) == 14 * 50 + 1 - 2 * CUT
    tall = {key.subject for key in keys if size_of(key.subject, key.camera) == (1000, 1002)}
    assert tall == {"S1", "S5", "S7", "S9"}
    assert ("S7", "55011271") in {(key.subject, key.camera) for key in keys}
    chosen = {"subjects": ("S1",), "actions": ("Walking",), "cameras": ("55011271",), "extra": DEMO.extra[:1]}
    small = replace(DEMO, **chosen, frames=5, scale=0.1)
    render(tmp_path, small, workers=1)
    reader = Human36M(tmp_path, hz=50)
    photo, _ = reader.sequences()
    assert photo.release_name == "TakingPhoto 1.54138969"
    ds = reader.annotate(photo)
    assert ds.sizes["frame"] == 5 - CUT
    assert json.loads(ds.attrs["provenance"])["notes"] == ["5 poses, 3 frames: the last 2 poses are left out"]
    assert len(poses(tmp_path, "S1", "D3_Positions", "TakingPhoto 1")) == 5
    assert {s.key for s in reader.sequences()} == set(small.sequences()) == set(read_truth(tmp_path))


def test_irregular_names_and_sizes_are_the_release_s(tmp_path: Path) -> None:
    render(tmp_path, Plan(subjects=("S1", "S7"), actions=("Photo",), cameras=("55011271",), frames=1), workers=1)
    sequences = Human36M(tmp_path).sequences()
    assert {s.key for s in sequences} == set(read_truth(tmp_path))
    # `_ALL` isn't an action, whatever its pose files are called.
    assert [s.release_name for s in sequences] == ["TakingPhoto 1.55011271", "Photo.55011271"]
    assert {s.key.action for s in sequences} == {"Photo"}
    assert len(list(tmp_path.glob("S1/MyPoseFeatures/D2_Positions/_ALL*"))) == 1
    sizes = [(s.camera.width, s.camera.height) for s in sequences if s.camera]
    assert sizes == [picture_size(tmp_path, s.media) for s in sequences] == [(1000, 1000), (1000, 1002)]
