"""The truth's files, and the model set that answers from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.demo.truth import Routing, SceneTruth, SequenceTruth, read_truth
from etl.errors import ModelError
from etl.models.base import Frame
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_TO_H36M, LIMB_JOINTS
from tests.etl.demo.conftest import SMALL
from tests.etl.miniatures import frames_of

KEY = SequenceKey("h36m", "S9", "Walking", 1, "54138969")


def frames(miniature: Path, key: SequenceKey = KEY) -> list[Frame]:
    camera = SequenceTruth.read(read_truth(miniature)[key]).camera
    rendered = frames_of(key, camera, SMALL.frames)
    return [Frame(key, n, picture.image, camera) for n, (_, picture) in enumerate(rendered)]


def test_all_sequences_are_found(miniature: Path, tmp_path: Path) -> None:
    truths = read_truth(miniature)
    assert set(truths) == set(SMALL.sequences())
    for key, path in truths.items():
        truth = SequenceTruth.read(path)
        assert truth.key == key
        assert len(truth) == SMALL.video_frames(key)
    with pytest.raises(ModelError, match="xycd demo"):
        read_truth(tmp_path)


def test_files_keep_depth_to_an_eighth_of_a_millimetre(miniature: Path) -> None:
    for key in (KEY, SequenceKey("h36m", "S1", "Directions", 1, "55011271")):
        truth = SequenceTruth.read(read_truth(miniature)[key])
        for number, (actor, picture) in enumerate(frames_of(key, truth.camera, SMALL.frames)):
            assert np.abs(truth.depth(number) - picture.depth).max() < 1.3e-4
            assert np.array_equal(truth.mask(number), picture.mask)
            assert truth.nearest(picture.image) == number
            points = truth.camera.world_to_camera(actor.to_world(actor.skeleton.coco))
            assert truth.coco_3d[number] == pytest.approx(points)
            assert truth.coco_2d[number] == pytest.approx(truth.camera.project(points))


def test_visible_joints_lie_just_behind_the_surface(miniature: Path) -> None:
    shares = []
    for path in read_truth(miniature).values():
        truth = SequenceTruth.read(path)
        for number in range(len(truth)):
            x, y = np.round(truth.coco_2d[number]).astype(int).T
            behind = truth.coco_3d[number, :, 2] - truth.depth(number)[y, x]
            seen = truth.coco_visible[number]
            assert (behind[seen] < 0.2).all()
            assert (behind[seen] > -0.06).all()
            shares.append(seen.mean())
    assert 0.6 < np.mean(shares) < 0.98  # some are hidden, most are not


def test_both_conventions_agree_on_the_limbs_and_converted_joints_need_all_sources(miniature: Path) -> None:
    truth = SequenceTruth.read(read_truth(miniature)[KEY])
    converted = np.stack([truth.coco_2d[:, list(sources)].mean(1) for sources in COCO_TO_H36M], axis=1)
    assert converted[:, list(LIMB_JOINTS)] == pytest.approx(truth.h36m_2d[:, list(LIMB_JOINTS)])
    assert (truth.converted_visible[:, 0] == (truth.coco_visible[:, 11] & truth.coco_visible[:, 12])).all()


def test_the_model_set_answers_with_the_truth(miniature: Path) -> None:
    models, batch = SceneTruth(miniature, check_images=True), frames(miniature)
    truth = SequenceTruth.read(read_truth(miniature)[KEY])
    detections = models.detect(batch)
    poses = models.estimate_poses(batch, detections)
    depths = models.estimate_depth(batch, poses)
    for n, (found, pose, depth) in enumerate(zip(detections, poses, depths, strict=True)):
        rows, columns = np.nonzero(truth.mask(n))
        assert found.boxes.tolist() == [[columns.min(), rows.min(), columns.max(), rows.max()]]
        assert found.scores.tolist() == [1.0]
        assert pose.keypoints == pytest.approx(truth.coco_2d[[n]], abs=1e-4)
        assert pose.keypoints.dtype == np.float32
        assert (pose.scores == 1).all()
        assert np.array_equal(depth.to_array(), truth.depth(n))
        assert depth.shape == batch[n].image.shape[:2]
    embeddings = models.embed(poses, depths, [p.keypoints for p in poses])
    assert all(e.pose is None and e.depth is None for e in embeddings)
    assert models.channels == (0, 0)
    assert models.calls == {"detect": 1, "pose": 1, "depth": 1}
    assert models.frames == {(block, KEY, n): 1 for block in ("detect", "pose", "depth") for n in range(SMALL.frames)}
    json.dumps(models.identity)
    assert models.identity == SceneTruth(miniature).identity
    assert models.identity != SceneTruth(miniature, Routing((256, 256))).identity


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(32, 640), st.integers(32, 640)),
    st.floats(0.5, 2.5),
    st.booleans(),
    st.floats(-np.pi, np.pi),
    st.booleans(),
)
def test_crops_of_any_kind_give_the_joints_back(
    miniature: Path, size: tuple[int, int], padding: float, aspect: bool, rotation: float, flip: bool
) -> None:
    models = SceneTruth(miniature, Routing(size, padding, aspect, rotation, flip))
    truth = models.truth(KEY)
    camera = truth.camera
    batch = [Frame(KEY, 2, np.zeros((camera.height, camera.width, 3), np.uint8), camera)]
    (pose,) = models.estimate_poses(batch, models.detect(batch))
    assert pose.keypoints[0] == pytest.approx(truth.coco_2d[2], abs=1e-2)


def test_frames_are_checked(miniature: Path) -> None:
    models, batch = SceneTruth(miniature, check_images=True), frames(miniature)
    late = [Frame(f.key, f.number + 1, f.image, f.camera) for f in batch[:-1]]
    with pytest.raises(ModelError, match="image of frame 0 as frame 1"):
        models.detect(late)
    assert len(SceneTruth(miniature).detect(late)) == len(late)  # unless asked
    beyond = Frame(KEY, SMALL.frames, batch[0].image, batch[0].camera)
    with pytest.raises(ModelError, match="which has 5"):
        models.detect([beyond])
    other = Frame(SequenceKey("h36m", "S11", "Walking", 1, "54138969"), 0, batch[0].image, batch[0].camera)
    with pytest.raises(ModelError, match="S11"):
        models.detect([other])


def test_calls_are_logged_for_other_processes(miniature: Path, tmp_path: Path) -> None:
    models, batch = SceneTruth(miniature, log=tmp_path / "calls"), frames(miniature)[:2]
    models.estimate_poses(batch, models.detect(batch))
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines == [f"{block} {n} {KEY}" for block in ("detect", "pose") for n in (0, 1)]
