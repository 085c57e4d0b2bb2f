"""Pictures and videos of frames, with the scene's truth as models."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from etl.cli.app import app
from etl.config import EstimateSettings, ModelSettings
from etl.errors import ConfigError, MediaError, WorkspaceError
from etl.report.show import default_target, find_sequence, show_frame, show_image, show_video, write_video
from etl.report.views import Source, boxes_of, frame_of, look
from etl.stages.identity import build_models
from tests.etl import stores
from tests.etl.conftest import CAMERAS, Walk

NAME = f"S1/Walking/1/{CAMERAS[0]}"


def test_looking_again_sees_what_was_stored(shared_walk: Walk) -> None:
    stored = find_sequence(shared_walk.work, NAME)
    assert stored.source.root == shared_walk.raw
    rows = stored.rows()
    assert rows.frame.tolist() == list(range(shared_walk.frames))
    with xr.open_dataset(stored.annotation, engine="netcdf4") as annotated:
        frame = frame_of(annotated, 17, shared_walk.raw, 55)
    models = build_models(stored.source.models)
    view = look(frame, None, models, stored.source.settings)
    (seen,) = view.people
    (kept,) = stored.people(rows.take(rows.frame == 17))
    np.testing.assert_allclose(seen.joints, kept.joints)
    np.testing.assert_allclose(seen.depth, kept.depth)
    np.testing.assert_allclose(seen.radius, kept.radius)
    assert seen.coco is not None
    # Shoulders are the same joints in both skeletons.
    np.testing.assert_allclose(seen.coco[5], seen.joints[11], atol=1e-4)
    assert view.depth_map is not None
    assert view.depth_map.shape == frame.image.shape[:2]
    x, y = np.round(kept.joints[0]).astype(int)
    assert view.depth_map[y, x] == pytest.approx(kept.depth[0])
    assert kept.truth is not None
    assert np.abs(kept.truth - kept.joints)[[1, 2, 3, 4, 5, 6]].max() < 1


def test_boxes_of_annotated_people(shared_walk: Walk) -> None:
    with xr.open_dataset(shared_walk.annotation(CAMERAS[0]), engine="netcdf4") as annotated:
        joints = annotated["keypoints_2d"].values[3]
        boxes = boxes_of(annotated, 3, EstimateSettings(association="overlap"))
        assert boxes is not None
        np.testing.assert_allclose(boxes, [[*joints.min(0), *joints.max(0)]], rtol=1e-6)
        assert boxes_of(annotated, 3, EstimateSettings(association="person")) is None


def test_a_frame_of_a_sequence(shared_walk: Walk, tmp_path: Path) -> None:
    stored = find_sequence(shared_walk.work, NAME, "h36m")
    assert show_frame(stored, 5, tmp_path / "a.png") == ""
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    height = 360
    assert picture.shape[0] == height + 26
    assert picture.shape[1] > 3 * 350
    show_frame(stored, 5, tmp_path / "b.jpg", depth=False, around=True)
    alone = cv2.imread(str(tmp_path / "b.jpg"))
    assert alone is not None
    assert alone.shape[0] == 926
    assert alone.shape[1] < 900
    with pytest.raises(WorkspaceError, match="has 40 from 0 to 39"):
        show_frame(stored, 40, tmp_path / "c.png")


def test_data_that_have_moved(walk: Walk, tmp_path: Path) -> None:
    stored = find_sequence(walk.work, NAME)
    run = stored.store.last_run()
    stored.store.record_run({**run, "root": str(tmp_path / "gone")})
    with pytest.raises(WorkspaceError, match="--root"):
        show_frame(find_sequence(walk.work, NAME), 0, tmp_path / "a.png")
    assert Source.of(stored.store, walk.raw).root == walk.raw
    show_frame(find_sequence(walk.work, NAME, raw=walk.raw), 0, tmp_path / "a.png", depth=False)
    # A workspace of an earlier version says less: the models' name is in the stage.
    (stored.store.folder / "run.json").unlink()
    earlier = Source.of(stored.store)
    assert earlier.root is None
    assert earlier.settings.association == "person"


def test_models_that_are_gone_cost_the_depth_map_only(walk: Walk, tmp_path: Path) -> None:
    stored = find_sequence(walk.work, NAME)
    run = stored.store.last_run()
    stored.store.record_run({**run, "models": {"set": "embedded", "cache": str(tmp_path / "no")}})
    missing = show_frame(find_sequence(walk.work, NAME), 0, tmp_path / "a.png")
    assert "no depth map" in missing
    assert (tmp_path / "a.png").exists()


def test_unknown_sequences_are_refused_with_known_ones(shared_walk: Walk) -> None:
    with pytest.raises(WorkspaceError, match=f"Give one of these: {NAME}"):
        find_sequence(shared_walk.work, "S1/Walking/1/99")
    by_path = f"subject=S1/action=Walking/subaction=1/camera={CAMERAS[1]}"
    assert find_sequence(shared_walk.work, by_path).key.camera == CAMERAS[1]


def test_a_video_of_a_sequence(shared_walk: Walk, tmp_path: Path) -> None:
    stored = find_sequence(shared_walk.work, NAME)
    assert show_video(stored, tmp_path / "a.mp4", height=201) == shared_walk.frames
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 50
        assert (stream.width % 2, stream.height) == (0, 200)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == shared_walk.frames
    # The right thigh is drawn in blue where it was detected.
    rows = stored.rows()
    for number in (0, 20):
        scale = 200 / stored_height(shared_walk)
        x, y = np.round(rows.xy[number, [1, 2]].mean(0) * scale).astype(int)
        around = frames[number][y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).astype(int)
        assert (around[:, 2] - around[:, 0]).max() > 60
    with pytest.raises(ConfigError, match="mp4"):
        show_video(stored, tmp_path / "a.avi")


def stored_height(walk: Walk) -> int:
    with xr.open_dataset(walk.annotation(CAMERAS[0]), engine="netcdf4") as annotated:
        return frame_of(annotated, 0, walk.raw, 55).image.shape[0]


def test_a_video_needs_frames(tmp_path: Path) -> None:
    from fractions import Fraction

    with pytest.raises(MediaError, match="no frame that can be decoded"):
        write_video([], tmp_path / "a.mp4", Fraction(25))


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    path = tmp_path / "crowd.png"
    cv2.imwrite(str(path), np.full((240, 640, 3), 90, np.uint8))
    return path


def test_everybody_in_an_image(crowd: Path, tmp_path: Path) -> None:
    models = ModelSettings(set="tests.etl.fakes:build", options={"people": 3})
    assert show_image(crowd, tmp_path / "a.png", models) == 3
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    assert picture.shape[1] == 3 * 960 + 2 * 6  # image, COCO skeletons, depth
    nobody = ModelSettings(set="tests.etl.fakes:build", options={"empty": [0]})
    assert show_image(crowd, tmp_path / "b.png", nobody) == 0


def test_the_verb(shared_walk: Walk, crowd: Path, tmp_path: Path) -> None:
    run = CliRunner()
    made = run.invoke(app, ["show", str(crowd), "--models", "tests.etl.fakes:build", "--to", str(tmp_path / "a.png")])
    assert made.exit_code == 0, made.output
    assert made.output.strip() == f"{tmp_path / 'a.png'}: 1 person"
    options = ["--workspace", str(shared_walk.work), "--to", str(tmp_path / "b.png"), "--no-depth"]
    made = run.invoke(app, ["show", NAME, "3", *options])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "b.png").exists()
    refused = run.invoke(app, ["show", NAME, *options])
    assert isinstance(refused.exception, ConfigError)
    assert "needs a frame number or --video" in str(refused.exception)


def test_other_suffixes_are_refused_before_any_work(shared_walk: Walk, crowd: Path, tmp_path: Path) -> None:
    nothing = ModelSettings(set="no.such.module:build")
    for name in ("a.pdf", "a.mp4", "a"):
        with pytest.raises(ConfigError, match=r"\.png or \.jpg"):
            show_image(crowd, tmp_path / name, nothing)
        with pytest.raises(ConfigError, match=r"\.png or \.jpg"):
            show_frame(find_sequence(shared_walk.work, NAME), 0, tmp_path / name)
    for more in (["--video"], ["3"]):
        refused = CliRunner().invoke(app, ["show", str(crowd), *more])
        assert isinstance(refused.exception, ConfigError)
        assert "takes neither a frame number nor --video" in str(refused.exception)


def test_damaged_files_cost_their_frames(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), actions=("Walking",), cameras=("54138969",)))
    stores.estimate(tmp_path, parts)
    path = stores.store_of(tmp_path).folder / parts[0].path
    path.write_bytes(bytes(path.stat().st_size))
    stores.store_of(tmp_path).record_run({"models": {"set": "embedded"}, "estimate": {"association": "person"}})
    stored = find_sequence(tmp_path, "S1/Walking/1/54138969")
    assert stored.rows().frame.tolist() == [*range(8, 20)]
    with pytest.raises(WorkspaceError, match="--verify") as caught:
        show_frame(stored, 3, tmp_path / "a.png")
    assert path.name in str(caught.value)
    for part in parts[1:]:
        (stores.store_of(tmp_path).folder / part.path).write_bytes(b"")
    with pytest.raises(WorkspaceError, match="files that can be read"):
        stored.rows()


def test_names_of_targets(crowd: Path) -> None:
    assert default_target(str(crowd), None, video=False) == Path("crowd_overlay.png")
    assert default_target(NAME, 7, video=False) == Path(f"S1_Walking_1_{CAMERAS[0]}_000007.png")
    assert default_target(NAME, None, video=True) == Path(f"S1_Walking_1_{CAMERAS[0]}.mp4")
