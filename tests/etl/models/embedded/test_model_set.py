"""The real networks, on rendered figures (exact truth) and on real images where the samples are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from etl.demo.human36m import camera_of
from etl.errors import ConfigError, ModelError
from etl.models import geometry
from etl.models.base import Detections, Embeddings, Frame, Poses
from etl.models.embedded.model_set import BlazePose, Parameters, build
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_17, COCO_TO_H36M, H36M_17, LIMB_JOINTS
from tests.etl.miniatures import frames_of

KEY = SequenceKey("h36m", "S1", "Directions", 1, "54138969")
LIMBS = list(LIMB_JOINTS)


@pytest.fixture(scope="module")
def models(embedded_weights: Path) -> BlazePose:
    return BlazePose(embedded_weights)


@pytest.fixture(scope="module")
def rendered() -> list[tuple[Frame, np.ndarray, np.ndarray]]:
    """Frames, their COCO joints (17, 3) and H36M joints (17, 3), metres, camera coordinates."""
    found = []
    for subject, name in (("S1", "54138969"), ("S5", "60457274")):
        camera = camera_of(subject, name)
        key = SequenceKey("h36m", subject, "Directions", 1, name)
        ((actor, picture),) = frames_of(key, camera, 1)
        joints = [camera.world_to_camera(actor.to_world(j)) for j in (actor.skeleton.coco, actor.skeleton.h36m)]
        found.append((Frame(key, 0, picture.image, camera), *joints))
    return found


def run(models: BlazePose, frame: Frame) -> Poses:
    (poses,) = models.estimate_poses([frame], models.detect([frame]))
    return poses


def with_image(frame: Frame, image: np.ndarray) -> Frame:
    camera = Camera("c", image.shape[1], image.shape[0], frame.camera.focal, frame.camera.center)
    return Frame(frame.key, frame.number, np.ascontiguousarray(image), camera)


def to_h36m(coco: np.ndarray) -> np.ndarray:
    return np.array([coco[list(sources)].mean(0) for sources in COCO_TO_H36M])


def test_rendered_people_are_found_in_place_and_depth(models, rendered):
    for frame, coco, h36m in rendered:
        poses = run(models, frame)
        assert len(poses) == 1
        limbs = slice(5, 17)
        error = np.linalg.norm(poses.keypoints[0] - frame.camera.project(coco), axis=1)[limbs]
        assert error.mean() < 15
        assert error.max() < 40
        (depth,) = models.estimate_depth([frame], [poses])
        assert depth.joint_depth is not None
        root = h36m[0, 2]
        assert abs(depth.joint_depth[0, 0] - root) < 0.08 * root
        assert np.abs(depth.joint_depth[0] - root).max() < 1.2
        x, y = np.rint(frame.camera.project(h36m[0])).astype(int)
        assert abs(depth.to_array()[y, x] - root) < 0.12 * root
        assert 0.005 < np.isfinite(depth.to_array()).mean() < 0.2
        # The unpadded box, around the whole figure.
        pixels = frame.camera.project(h36m)
        box = poses.boxes[0]
        assert (box[:2] < pixels.min(0) + 10).all()
        assert (box[2:] > pixels.max(0) - 10).all()
        assert (box[:2] > pixels.min(0) - 40).all()
        assert (box[2:] < pixels.max(0) + 40).all()


def test_a_mirrored_image_gives_the_mirrored_pose(models, rendered):
    """Left and right, and the half pixel: the mean shift is far below a pixel of the network's input."""
    shifts = []
    for frame, _, _ in rendered:
        width = frame.image.shape[1]
        poses, mirrored = run(models, frame), run(models, with_image(frame, frame.image[:, ::-1]))
        swapped = np.arange(17)
        swapped[list(COCO_17.left)], swapped[list(COCO_17.right)] = COCO_17.right, COCO_17.left
        back = mirrored.keypoints[0][swapped]
        back[:, 0] = width - 1 - back[:, 0]
        shifts.append(back - poses.keypoints[0])
        assert np.linalg.norm(shifts[-1], axis=1).mean() < 10
    assert np.abs(np.mean(shifts, axis=(0, 1))).max() < 3


def test_padding_the_image_moves_the_pose_with_it(models, rendered):
    frame, _, _ = rendered[0]
    padded = np.pad(frame.image, ((40, 0), (70, 30), (0, 0)))
    shift = run(models, with_image(frame, padded)).keypoints[0] - run(models, frame).keypoints[0]
    assert np.linalg.norm(shift - (70, 40), axis=1).mean() < 6
    np.testing.assert_allclose(shift.mean(0), (70, 40), atol=3)


@pytest.mark.parametrize("degrees", [-60, 45])
def test_a_turned_image_gives_the_turned_pose_and_depth(models, rendered, degrees):
    """A leaning body is seen upright; its world landmarks are turned back."""
    frame, _, h36m = rendered[0]
    height, width = frame.image.shape[:2]
    turn = geometry.crop_matrix(
        ((width - 1) / 2, (height - 1) / 2), (width, height), np.radians(degrees), (width, height)
    )
    turned = with_image(frame, geometry.warp(frame.image, turn, (width, height), border="replicate"))
    upright, leaning = run(models, frame), run(models, turned)
    assert len(leaning) == 1
    error = np.linalg.norm(geometry.apply(turn, upright.keypoints[0]) - leaning.keypoints[0], axis=1)
    assert error.mean() < 15
    (depth,) = models.estimate_depth([turned], [leaning])
    assert depth.joint_depth is not None
    assert abs(depth.joint_depth[0, 0] - h36m[0, 2]) < 0.12 * h36m[0, 2]


def test_resolution_changes_pixels_but_not_metres(models, rendered):
    frame, _, _ = rendered[0]
    height, width = frame.image.shape[:2]
    size = (width // 2, height // 2)
    half = geometry.resize_matrix((width, height), size)
    camera = frame.camera
    focal = (camera.focal[0] / 2, camera.focal[1] / 2)
    center = geometry.apply(half, camera.center)
    small = Frame(
        frame.key, 0, geometry.warp(frame.image, half, size), Camera("c", *size, focal, (center[0], center[1]))
    )
    large_poses, small_poses = run(models, frame), run(models, small)
    error = geometry.apply(half, large_poses.keypoints[0]) - small_poses.keypoints[0]
    assert np.linalg.norm(error, axis=1).mean() < 4
    depths = [models.estimate_depth([f], [p])[0].joint_depth for f, p in ((frame, large_poses), (small, small_poses))]
    np.testing.assert_allclose(depths[1], depths[0], rtol=0.05)


def test_the_same_bits_in_any_batch_with_any_threads(models, rendered, embedded_weights):
    frames = [frame for frame, _, _ in rendered]
    blank = with_image(frames[0], np.zeros((60, 50, 3), np.uint8))
    several = BlazePose(embedded_weights, threads=3)
    one, two = models.detect(frames[:1]), models.detect([frames[0]])
    batch = several.detect([frames[1], blank, frames[0]])
    poses = [
        models.estimate_poses(frames[:1], one)[0],
        models.estimate_poses(frames[:1], two)[0],
        several.estimate_poses([frames[1], blank, frames[0]], batch)[2],
    ]
    depths = [m.estimate_depth([frames[0]], [p])[0] for m, p in zip((models, models, several), poses, strict=True)]
    for pose, depth in zip(poses[1:], depths[1:], strict=True):
        for name in ("keypoints", "scores", "boxes", "box_scores"):
            np.testing.assert_array_equal(getattr(pose, name), getattr(poses[0], name))
        np.testing.assert_array_equal(depth.to_array(), depths[0].to_array())
        np.testing.assert_array_equal(depth.joint_depth, depths[0].joint_depth)
    assert models.identity == several.identity


def test_nobody(models):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (200, 300, 3), np.uint8), (0, 0), 5)
    frame = Frame(KEY, 0, image, Camera.from_field_of_view(300, 200, 55))
    (found,) = models.detect([frame])
    assert len(found) == 0
    (poses,) = models.estimate_poses([frame], [found])
    assert poses.keypoints.shape == (0, 17, 2)
    assert poses.boxes.shape == (0, 4)
    (depth,) = models.estimate_depth([frame], [poses])
    assert depth.joint_depth is not None
    assert depth.joint_depth.shape == (0, 17)
    assert np.isnan(depth.to_array()).all()
    assert depth.shape == (200, 300)
    assert models.embed([poses], [depth], [np.zeros((0, 17, 2), np.float32)]) == [Embeddings()]


def test_boxes_from_elsewhere_are_used(models, rendered):
    """The annotation's box instead of the detector's; a box of NaN is nobody, nor is one of an empty corner."""
    frame, coco, _ = rendered[0]
    pixels = frame.camera.project(coco)
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    boxes = np.array([np.full(4, np.nan), [5, 5, 60, 120], box, [9, 9, 9, 9]], np.float32)
    (poses,) = models.estimate_poses([frame], [Detections(boxes, np.ones(4, np.float32))])
    assert len(poses) == 1
    assert np.linalg.norm(poses.keypoints[0] - pixels, axis=1)[5:].mean() < 15


def two_people(rendered: list) -> Frame:
    """The first rendered frame beside itself."""
    frame = rendered[0][0]
    return with_image(frame, np.concatenate([frame.image[:, 150:-150], frame.image[:, 150:-150]], axis=1))


def test_two_people_and_the_choice_of_one(models, rendered):
    frame = two_people(rendered)
    poses = run(models, frame)
    assert len(poses) == 2
    order = np.argsort(poses.boxes[:, 0])
    width = rendered[0][0].image.shape[1] - 300
    left, right = poses.keypoints[order]
    np.testing.assert_allclose((right - left).mean(0), (width, 0), atol=6)
    (both,) = models.estimate_depth([frame], [poses])
    one = poses.take([int(order[1])])
    (alone,) = models.estimate_depth([frame], [one])
    assert both.joint_depth is not None
    assert alone.joint_depth is not None
    np.testing.assert_array_equal(alone.joint_depth[0], both.joint_depth[order[1]])
    covered = np.isfinite(alone.to_array())
    np.testing.assert_array_equal(both.to_array()[covered], alone.to_array()[covered])
    assert np.isfinite(both.to_array()).sum() > 1.5 * covered.sum()


def test_small_people_are_found_in_tiles(models, rendered, embedded_weights):
    """A person of some 80 px in a large picture: only tiles find it, and once."""
    frame, coco, _ = rendered[0]
    height, width = frame.image.shape[:2]
    pixels = frame.camera.project(coco)
    scale = 80 / np.ptp(pixels[:, 1])
    small = geometry.resize_matrix((width, height), (round(width * scale), round(height * scale)))
    size = (round(width * scale), round(height * scale))
    image = np.full((900, 900, 3), 120, np.uint8)
    image[500 : 500 + size[1], 310 : 310 + size[0]] = geometry.warp(frame.image, small, size)
    large = with_image(frame, image)
    never = BlazePose(embedded_weights, parameters=Parameters(tiles="never"))
    assert len(never.detect([large])[0]) == 0
    found = run(models, large)
    assert len(found) == 1
    expected = geometry.apply(small, pixels) + (310, 500)  # noqa: RUF005
    assert np.linalg.norm(found.keypoints[0] - expected, axis=1).mean() < 6


def test_identity_is_json_and_knows_every_parameter(models, embedded_weights):
    identity = json.loads(json.dumps(models.identity))
    assert identity["runtime"] == "litert"
    assert identity["precision"] == "fp32"
    assert len(identity["files"]["pose_detection.tflite"]) == 64
    assert set(identity["parameters"]) == set(vars(Parameters()))
    other = build({"tiles": "never", "threads": 2}, embedded_weights)
    assert isinstance(other, BlazePose)
    assert other.identity["parameters"]["tiles"] == "never"
    assert other.identity != models.identity
    assert build({"smallest": 80}, embedded_weights).identity == build({"smallest": 80.0}, embedded_weights).identity
    assert "threads" not in json.dumps(other.identity)
    assert models.channels == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": "auto"}, "tiles"),
        ({"tiles": "sometimes"}, "'always'"),
        ({"smallest": -3}, "smallest"),
        ({"smallest": 3}, "16 px"),
        ({"padding": "1"}, "padding"),
        ({"threads": 0}, "threads"),
    ],
)
def test_options_are_checked(options, message, embedded_weights):
    with pytest.raises(ConfigError, match=message):
        build(options, embedded_weights)


def test_litert_does_not_greet(embedded_weights):
    code = "import sys; from etl.models.embedded.model_set import build; build({}); print('said', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == "said\n"


def test_absent_files(tmp_path):
    with pytest.raises(ModelError, match="xycd models fetch"):
        BlazePose(tmp_path)


# Real images.


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def standing(samples: Path) -> list[tuple[str, Frame, np.ndarray, np.ndarray]]:
    """Human3.6M's sample frames with their annotated joints (17, 2) px and (17, 3) m."""
    truth = np.load(samples / "h36m" / "test_h36m_body3d.npz", allow_pickle=False)
    found = []
    for name, part, joints in zip(truth["imgname"], truth["part"], truth["S"], strict=True):
        path = samples / "h36m" / "images" / str(name)
        if path.exists():  # the release of the samples has three of the four
            subject, camera = path.name[:2], path.stem.split(".")[1].split("_")[0]
            frame = Frame(KEY, 0, read(path), camera_of(subject, camera))
            found.append((path.name, frame, part[:, :2], joints[:, :3]))
    assert len(found) >= 3
    return found


def test_real_human36m(models, samples):
    for name, frame, pixels, joints in standing(samples):
        poses = run(models, frame)
        assert len(poses) == 1
        error = np.linalg.norm(to_h36m(poses.keypoints[0]) - pixels, axis=1)[LIMBS]
        (depth,) = models.estimate_depth([frame], [poses])
        assert depth.joint_depth is not None
        off = abs(depth.joint_depth[0, 0] - joints[0, 2]) / joints[0, 2]
        sits = "SittingDown" in name
        assert error.mean() < (40 if sits else 20)
        assert off < 0.15


# The order in which MMPose's converter stores MPI-INF-3DHP's joints.
MPI_INF_3DHP = (
    "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot", "pelvis", "spine", "head",
)  # fmt: skip


def test_real_mpi_inf_3dhp(models, samples):
    seen = 0
    for split in ("train", "test"):
        truth = np.load(samples / "3dhp" / f"test_3dhp_{split}.npz", allow_pickle=False)
        for name, part in zip(truth["imgname"], truth["part"], strict=True):
            path = samples / "3dhp" / str(name)
            if not path.exists():
                continue
            seen += 1
            image = read(path)
            poses = run(models, Frame(KEY, 0, image, Camera.from_field_of_view(2048, 2048, 70)))
            assert len(poses) == 1
            joints = to_h36m(poses.keypoints[0])
            limbs = [H36M_17.joints[i] for i in LIMBS]
            expected = np.array([part[MPI_INF_3DHP.index(limb), :2] for limb in limbs])
            error = np.linalg.norm(joints[LIMBS] - expected, axis=1)
            assert error.mean() < 0.08 * np.ptp(part[:, :2], axis=0).max()
    assert seen == 2


def test_real_video_of_small_people(models, samples):
    import av

    with av.open(str(samples / "video" / "vtest.avi")) as video:
        images = [f.to_ndarray(format="rgb24") for i, f in enumerate(video.decode(video=0)) if i in (0, 240, 400)]
    camera = Camera.from_field_of_view(768, 576, 55)
    frames = [Frame(KEY, i, image, camera) for i, image in enumerate(images)]
    found = models.estimate_poses(frames, models.detect(frames))
    assert [len(poses) >= 3 for poses in found] == [True] * 3
    # Who walks on the path in frame 0, from a look at the picture: middle of the body.
    for x, y in [(267, 265), (514, 195), (662, 282)]:
        middles = (found[0].boxes[:, :2] + found[0].boxes[:, 2:]) / 2
        assert np.linalg.norm(middles - (x, y), axis=1).min() < 15
    heights = found[0].boxes[:, 3] - found[0].boxes[:, 1]
    assert ((heights > 60) & (heights < 130)).all()
