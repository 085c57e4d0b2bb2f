from __future__ import annotations

import json
import re
from pathlib import Path

import cdflib.cdfwrite
import numpy as np
import pytest
import simplejpeg

from etl.datasets.human36m.reader import Human36M
from etl.demo.human36m import write_poses
from etl.errors import DatasetError
from etl.media.frames import Media, decode
from schemas import annotation
from tests.etl.datasets.human36m_raw import spread, walk, write_release, write_sequence
from tests.etl.datasets.media import number_of, numbered

CAMERA = "54138969"


def notes_of(ds: object) -> list[str]:
    return json.loads(ds.attrs["provenance"])["notes"]  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module", params=["official", "fetch"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S1, S7 and S9 with irregular names, two cameras, `_ALL`, a subject without poses."""
    root = tmp_path_factory.mktemp(request.param)
    write_release(root)
    for subject, action, subaction in (
        ("S1", "Photo", 1),
        ("S1", "Eating", 1),
        ("S7", "Phoning", 2),
        ("S9", "Waiting", 1),
    ):
        for camera in (CAMERA, "55011271"):
            write_sequence(root, subject, action, subaction, camera, layout=request.param)
    write_sequence(root, "S1", "Eating", 1, CAMERA, layout=request.param, name="_ALL 1")
    write_sequence(root, "S1", "Eating", 1, CAMERA, layout=request.param, name="_ALL")
    (root / ("S2" if request.param == "official" else "extracted/S2") / "Videos").mkdir(parents=True)
    return root


def test_sequences_follow_the_table(release: Path) -> None:
    reader = Human36M(release)
    listed = reader.sequences()
    assert [(s.key.subject, s.key.action, s.key.subaction, s.key.camera) for s in listed] == [
        (subject, action, subaction, camera)
        for subject, action, subaction in (
            ("S1", "Eating", 1),
            ("S1", "Photo", 1),
            ("S7", "Phoning", 2),
            ("S9", "Waiting", 1),
        )
        for camera in (CAMERA, "55011271")
    ]
    names = {s.key.action: s.release_name for s in listed if s.key.camera == CAMERA}
    assert names == {
        "Eating": f"Eating 2.{CAMERA}",
        "Photo": f"TakingPhoto 1.{CAMERA}",
        "Phoning": f"Phoning.{CAMERA}",
        "Waiting": f"Waiting 1.{CAMERA}",
    }
    assert {s.key.subject: s.split for s in listed} == {"S1": "train", "S7": "train", "S9": "val"}
    assert all((release / s.media.path).is_file() for s in listed)
    assert reader.notes() == ["S2 is left out: the release has no poses of it."]


def test_filters(release: Path) -> None:
    def keys(**options: object) -> set[tuple[str, str]]:
        return {(s.key.subject, s.key.action) for s in Human36M(release, **options).sequences()}  # type: ignore[arg-type]

    assert keys(subjects=["S9"]) == {("S9", "Waiting")}
    assert keys(actions=["Photo"]) == keys(actions=["TakingPhoto"]) == {("S1", "Photo")}
    assert len(Human36M(release, cameras=["55011271"]).sequences()) == 4


@pytest.mark.parametrize(
    ("options", "rule", "fix"),
    [
        ({"subjects": ["s9"]}, "Every subject must be one of", "'S9'"),
        ({"actions": ["Waitin"]}, "Every action must be one of", "'Waiting'"),
        ({"cameras": ["54138968"]}, "Every camera must be one of", "'54138969'"),
        ({"subjects": ["S5"]}, "have the pose files of S5", "Unpack"),
        ({"hz": 30}, "divided by a whole number", "25"),
    ],
)
def test_unknown_options_are_refused(release: Path, options: dict[str, object], rule: str, fix: str) -> None:
    with pytest.raises(DatasetError, match=rule) as caught:
        Human36M(release, **options).sequences()  # type: ignore[arg-type]
    assert fix in caught.value.fix


@pytest.mark.parametrize(("hz", "frames"), [(50, list(range(12))), (25, list(range(0, 12, 2))), (10, [0, 5, 10])])
def test_rows_are_the_releases_joints_at_every_rate(release: Path, hz: int, frames: list[int]) -> None:
    reader = Human36M(release, hz=hz, subjects=["S7"], cameras=["55011271"])
    (sequence,) = reader.sequences()
    ds = annotation.validate(reader.annotate(sequence))
    camera = annotation.camera_of(ds)
    assert camera is not None
    assert (camera.width, camera.height) == (1000, 1002)
    truth = camera.world_to_camera(walk(12))[frames]
    assert ds["frame_number"].values.tolist() == frames
    assert np.abs(ds["keypoints_3d"].values - truth).max() < 1e-6
    assert np.abs(ds["keypoints_2d"].values - camera.project(truth)).max() < 1e-3
    assert (ds["visibility"].values == 1).all()
    assert ds["valid_annotation"].values.all()
    assert ds.attrs["rate_hz"] == hz
    assert annotation.imgname_of(ds)[1] == f"S7/S7_Phoning.55011271/S7_Phoning.55011271_{frames[1] + 1:06d}.jpg"
    media = Media.from_dict(json.loads(ds.attrs["media"]))
    shown = [number_of(f.image) for f in decode(release, media, frames) if f.image is not None]
    assert shown == frames


@pytest.mark.parametrize(("poses", "video", "rows"), [(12, 20, 12), (20, 12, 12), (12, 12, 12), (12, None, 12)])
def test_poses_and_video_of_different_length(tmp_path: Path, poses: int, video: int | None, rows: int) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, poses=poses, video=video)
    reader = Human36M(tmp_path, hz=50)
    ds = reader.annotate(reader.sequences()[0])
    assert ds["frame_number"].values.tolist() == list(range(rows))
    if poses != video:
        assert any(("no such file" if video is None else str(video)) in note for note in notes_of(ds))
    assert (ds.attrs["media_bytes"] > 0) == (video is not None)


def test_a_frame_count_other_than_the_metadatas_is_noted(tmp_path: Path) -> None:
    write_release(tmp_path, {("S1", "Walking", 1): dict.fromkeys((CAMERA, "55011271"), 13)})
    write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, poses=12, video=12)
    reader = Human36M(tmp_path)
    assert notes_of(reader.annotate(reader.sequences()[0])) == ["12 frames, where metadata.xml says 13"]


@pytest.mark.parametrize("kind", ["video", "images"])
def test_frames_of_another_size_than_the_camera_s_are_refused(tmp_path: Path, kind: str) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, size=(500, 500), video=12 if kind == "video" else None)
    if kind == "images":
        folder = tmp_path / f"S1/S1_Walking_1.{CAMERA}"
        folder.mkdir(parents=True)
        for number in (3, 4):  # the first ones are lost
            image = simplejpeg.encode_jpeg(numbered(number, (500, 500)))
            (folder / f"{folder.name}_{number:06d}.jpg").write_bytes(image)
    reader = Human36M(tmp_path)
    with pytest.raises(DatasetError, match="must be 1000x1002, as in the camera's calibration") as caught:
        reader.annotate(reader.sequences()[0])
    assert caught.value.found == "frames of 500x500"


def test_another_of_the_release_s_sizes_is_taken_with_a_note(tmp_path: Path) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S7", "Walking", 1, "55011271", size=(1000, 1000))
    reader = Human36M(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    camera = annotation.camera_of(ds)
    assert camera is not None
    assert (camera.width, camera.height) == (1000, 1000)
    assert notes_of(ds)[-1] == "frames of 1000x1000, where metadata.xml says 1000x1002"


@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_an_unreadable_video_still_has_annotations(tmp_path: Path, content: bytes) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S11", "Directions", 1, CAMERA)
    (video,) = tmp_path.glob("S11/Videos/*.mp4")
    video.write_bytes(content)
    reader = Human36M(tmp_path, hz=50)
    ds = reader.annotate(reader.sequences()[0])
    assert ds.sizes["frame"] == 12
    assert "frames aren't counted" in notes_of(ds)[0]
    media = Media.from_dict(json.loads(ds.attrs["media"]))
    assert all(frame.error for frame in decode(tmp_path, media, range(12)))


@pytest.mark.parametrize("home", ["", "images", "images/images"])
@pytest.mark.parametrize("kind", ["numbered", "named"])
def test_extracted_images_serve_where_there_is_no_video(tmp_path: Path, home: str, kind: str) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S1", "Photo", 2, "58860488", video=None)
    stem = {"numbered": "s_01_act_12_subact_02_ca_03", "named": "S1_TakingPhoto.58860488"}[kind]
    folder = tmp_path / home / ("S1" if kind == "named" else "") / stem
    folder.mkdir(parents=True)
    for number in range(10):
        (folder / f"{stem}_{number + 1:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(numbered(number, (1000, 1000))))
    reader = Human36M(tmp_path, hz=25)
    (sequence,) = reader.sequences()
    assert sequence.media.kind == "images"
    ds = reader.annotate(sequence)
    # At 25 Hz annotation k, from 1, is image 2k - 1.
    assert ds["frame_number"].values.tolist() == [0, 2, 4, 6, 8]
    assert sequence.media.image_path(tmp_path, 4).name == f"{stem}_000005.jpg"
    shown = [number_of(f.image) for f in decode(tmp_path, sequence.media, [0, 2, 4, 6, 8]) if f.image is not None]
    assert shown == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("subject", "action", "shifted"), [("S9", "Waiting", True), ("S9", "Walking", False), ("S11", "Waiting", False)]
)
def test_the_shift_of_s9_is_undone_on_request_only(tmp_path: Path, subject: str, action: str, shifted: bool) -> None:
    write_release(tmp_path)
    points = write_sequence(tmp_path, subject, action, 1, CAMERA)
    plain = Human36M(tmp_path, hz=50)
    sequence = plain.sequences()[0]
    assert np.abs(plain.annotate(sequence)["keypoints_3d"].values - points).max() < 1e-6
    ds = Human36M(tmp_path, hz=50, correct_s9_shift=True).annotate(sequence)
    camera = annotation.camera_of(ds)
    assert camera is not None
    truth = camera.world_to_camera(walk(12) - (np.array([0.2, 0, 0]) if shifted else 0))
    assert np.abs(ds["keypoints_3d"].values - truth).max() < 1e-6
    assert np.abs(ds["keypoints_2d"].values - camera.project(truth)).max() < 1e-3


def write_cdf(path: Path, values: np.ndarray, name: str = "Pose") -> None:
    path.unlink(missing_ok=True)
    cdf = cdflib.cdfwrite.CDF(path)
    spec = {"Variable": name, "Data_Type": 45, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": list(values.shape[1:])}
    cdf.write_var(spec, var_data=values.astype(np.float64))
    cdf.close()


def damage(path: Path, kind: str, axes: int) -> None:
    good = spread(np.ones((12, 17, axes))).reshape(1, 12, -1)
    if kind == "nan":
        good[0, 3, 7] = np.nan
    if kind == "text":
        path.write_text("this is no CDF file\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "gone":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        values = {"variable": good, "nan": good, "joints": good[..., : 31 * axes], "shape": good[0]}[kind]
        write_cdf(path, values, "Angles" if kind == "variable" else "Pose")


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    ("kind", "rule", "found"),
    [
        ("text", "readable CDF", ""),
        ("empty", "at least 1 bytes", "0 bytes"),
        ("gone", "must be a file", "no such file"),
        ("truncated", "readable CDF", ""),
        ("variable", "have 'Pose'", "Angles"),
        ("joints", r"shape \(1, F, {width}\)", "62|93"),
        ("shape", r"shape \(1, F, {width}\)", r"\(12,"),
        ("nan", "finite everywhere", r"nan\) at \(0, 3, 7\)"),
    ],
)
def test_malformed_poses_name_file_rule_and_what_was_found(
    tmp_path: Path, kind: str, rule: str, found: str, axes: int
) -> None:
    write_release(tmp_path)
    write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, video=None)
    place = {2: "D2_Positions", 3: "D3_Positions_mono"}[axes]
    reader = Human36M(tmp_path)
    (sequence,) = reader.sequences()
    path = tmp_path / f"S1/MyPoseFeatures/{place}/Walking 1.{CAMERA}.cdf"
    damage(path, kind, axes)
    with pytest.raises(DatasetError, match=rule.format(width=32 * axes)) as caught:
        reader.annotate(sequence)
    assert str(path) in caught.value.rule
    assert caught.value.fix
    if found:
        assert re.search(found, caught.value.found)


@pytest.mark.parametrize("kind", ["length", "camera", "unit", "legs"])
def test_wrong_geometry_is_refused(tmp_path: Path, kind: str) -> None:
    metadata = write_release(tmp_path)
    points = write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, video=None)
    camera = metadata.cameras["S1", CAMERA]
    reader = Human36M(tmp_path)
    (sequence,) = reader.sequences()
    swapped = points[:, [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]]
    changed, rule = {
        "length": (points[:-1], "same number of poses"),
        "camera": (points + np.array([0, 0.1, 0]), "project onto its 2D joints"),
        "unit": (points / 10, "m long"),
        "legs": (swapped, "same side"),
    }[kind]
    write_poses(tmp_path / sequence.files["poses_3d"], spread(changed * 1000))
    if kind == "legs":
        write_poses(tmp_path / sequence.files["poses_2d"], spread(camera.project(swapped)))
    with pytest.raises(DatasetError, match=rule):
        reader.annotate(sequence)


@pytest.mark.parametrize(("off", "refused"), [(0.02, False), (0.2, True)])
def test_2d_joints_that_the_exact_projection_misses_are_refused(tmp_path: Path, off: float, refused: bool) -> None:
    metadata = write_release(tmp_path)
    points = write_sequence(tmp_path, "S1", "Walking", 1, CAMERA, video=None)
    reader = Human36M(tmp_path)
    (sequence,) = reader.sequences()
    pixels = metadata.cameras["S1", CAMERA].project(points) + np.array([off, 0])
    write_poses(tmp_path / sequence.files["poses_2d"], spread(pixels))
    if refused:
        with pytest.raises(DatasetError, match=r"95% within 0\.05 px"):
            reader.annotate(sequence)
        return
    checks = json.loads(reader.annotate(sequence).attrs["provenance"])["checks"]
    assert checks["projection_px"]["max"] == pytest.approx(off, abs=1e-3)


@pytest.mark.parametrize("what", ["nothing", "a file", "wrong layout"])
def test_a_wrong_folder_is_refused(tmp_path: Path, what: str) -> None:
    root = tmp_path / "h36m"
    (tmp_path / "h36m-data").mkdir()
    if what == "a file":
        root.write_text("")
    if what == "wrong layout":
        (root / "subject1").mkdir(parents=True)
        write_release(root)
    with pytest.raises(DatasetError) as caught:
        Human36M(root).sequences()
    assert str(root) in caught.value.rule
    expected = {"nothing": "h36m-data", "a file": "a file", "wrong layout": "subject1"}
    assert expected[what] in str(caught.value)


def test_real_poses_through_raw_files_give_mmposes_numbers(samples: Path, tmp_path: Path) -> None:
    """The pose of each real sample, written as a release would hold it, gives MMPose's own annotation of that frame."""
    with np.load(samples / "h36m" / "test_h36m_body3d.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    (tmp_path / "metadata.xml").write_bytes((samples / "h36m" / "metadata.xml").read_bytes())
    reader = Human36M(tmp_path, hz=50)
    for row, imgname in enumerate(golden["imgname"].tolist()):
        subject, folder, _ = imgname.split("/")
        name = folder.removeprefix(f"{subject}_")
        prefix, camera = name.rpartition(".")[::2]
        release_name = f"{prefix.replace('_', ' ')}.{camera}"
        base = tmp_path / subject / "MyPoseFeatures"
        write_poses(base / "D2_Positions" / f"{release_name}.cdf", spread(golden["part"][row : row + 1, :, :2]))
        write_poses(
            base / "D3_Positions_mono" / f"{release_name}.cdf", spread(golden["S"][row : row + 1, :, :3] * 1000)
        )
    sequences = {s.release_name: s for s in reader.sequences()}
    assert len(sequences) == 4
    for row, imgname in enumerate(golden["imgname"].tolist()):
        subject, folder, file_name = imgname.split("/")
        sequence = next(s for s in sequences.values() if folder == f"{subject}_{s.release_name.replace(' ', '_')}")
        ds = reader.annotate(sequence)
        assert ds["keypoints_2d"].values[0].tolist() == golden["part"][row, :, :2].tolist()
        assert np.abs(ds["keypoints_3d"].values[0] - golden["S"][row, :, :3]).max() < 1e-6
        assert ds["center"].values[0].tolist() == golden["center"][row].tolist()
        assert abs(ds["scale"].values[0] - golden["scale"][row]) < 1e-12
        frame = int(file_name[-10:-4]) - 1
        assert ds.attrs["imgname"].format(number=frame + 1) == imgname
        # The cameras of metadata.xml carry the real 3D joints onto the real 2D joints.
        camera = annotation.camera_of(ds)
        assert camera is not None
        assert np.abs(camera.project(golden["S"][row, :, :3]) - golden["part"][row, :, :2]).max() < 1e-3
