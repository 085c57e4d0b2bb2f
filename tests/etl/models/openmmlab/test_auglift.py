"""The set as a whole: batches, people, identity, compatibility, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from etl.errors import ModelError
from etl.models import registry
from etl.models.auglift import (
    catalog,
    depth_anything_weights,
    embedding,
    openmmlab,
)
from etl.models.auglift import model_set as auglift
from etl.models.auglift.depth_anything import DepthEstimator
from etl.models.auglift.rtmdet import PersonDetector
from etl.models.auglift.rtmpose import PoseEstimator
from etl.models.base import ArrayDepth, Detections, Frame, OnDevice
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import apply
from etl.stages.blocks.people import choose_person
from schemas.camera import Camera
from tests.etl.models.openmmlab import MARKS
from tests.etl.models.openmmlab.conftest import draw

pytestmark = MARKS

SMALL = {
    "detector": "rtmdet-nano-person",
    "pose": "rtmpose-t",
    "depth": "depth-anything-v2-indoor-tiny",
    "weights": "random",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def models() -> auglift.AugliftModels:
    """Small networks with random weights, built as a configuration would."""
    built = registry.build("auglift", **SMALL)
    assert isinstance(built, auglift.AugliftModels)
    return built


def variant(models: auglift.AugliftModels, **changes: Any) -> auglift.AugliftModels:
    """The same networks under other options, without drawing them again."""
    options = auglift.AugliftSettings(**{**SMALL, **changes})
    runtime = TorchContext.choose(options.device, options.precision)
    detector, pose = (
        openmmlab.read_config(network.package, network.config)
        for network in (catalog.DETECTORS[options.detector], catalog.POSE_ESTIMATORS[options.pose])
    )
    return auglift.AugliftModels(
        options,
        PersonDetector(models.detector.model, detector, runtime, min_score=options.min_score),
        PoseEstimator(models.pose.model, pose, runtime),
        DepthEstimator(models.depth.model, runtime, processing=options.processing),
        {},
    )


def run(models: auglift.AugliftModels, frames: list[Frame]) -> tuple[Any, ...]:
    """All blocks, as estimate calls them; joints are those of COCO, which is all the same here."""
    detections = models.detect(frames)
    candidates = models.estimate_poses(frames, detections)
    chosen = [poses.take([row] if (row := choose_person(poses)) is not None else []) for poses in candidates]
    depths = models.estimate_depth(frames, chosen)
    embeddings = models.embed(chosen, depths, [poses.keypoints for poses in chosen])
    return detections, candidates, chosen, depths, embeddings


@pytest.fixture(scope="module")
def together(models: auglift.AugliftModels, frames: list[Frame]) -> tuple[Any, ...]:
    """All pictures in one batch."""
    return run(models, frames)


def test_a_batch_of_one_agrees_with_a_batch_of_many(
    models: auglift.AugliftModels, frames: list[Frame], together: tuple[Any, ...]
) -> None:
    # Each block is given the same, since a box that moves by a thousandth of a pixel gives another crop.
    for i, frame in enumerate(frames):
        detections, candidates, chosen, depths, embeddings = (block[i : i + 1] for block in together)
        (detected,) = models.detect([frame])
        np.testing.assert_allclose(detected.boxes, detections[0].boxes, atol=0.01)
        np.testing.assert_allclose(detected.scores, detections[0].scores, atol=1e-4)
        (poses,) = models.estimate_poses([frame], detections)
        np.testing.assert_allclose(poses.keypoints, candidates[0].keypoints, atol=0.01)
        np.testing.assert_allclose(poses.scores, candidates[0].scores, atol=1e-4)
        own_depths = models.estimate_depth([frame], chosen)
        np.testing.assert_allclose(own_depths[0].to_array(), depths[0].to_array(), rtol=1e-4, atol=1e-4)
        own = poses.take([choose_person(candidates[0])])
        (embedded,) = models.embed([own], own_depths, [chosen[0].keypoints])
        for name in ("pose", "depth"):
            one, many = (np.asarray(getattr(e, name), np.float64) for e in (embedded, embeddings[0]))
            np.testing.assert_allclose(one, many, rtol=1e-3, atol=1e-3)


def test_shapes_are_those_of_the_contract(models: auglift.AugliftModels, together: tuple[Any, ...]) -> None:
    assert models.channels == (384, 32)
    for detections, candidates, chosen, depth, embedded in zip(*together, strict=True):
        people = len(detections)
        assert people > 0
        assert (detections.scores[:-1] >= detections.scores[1:]).all()
        assert candidates.keypoints.shape == (people, 17, 2)
        assert candidates.keypoints.dtype == candidates.scores.dtype == candidates.boxes.dtype == np.float32
        assert len(candidates.own["features"]) == people
        assert len(chosen) == len(chosen.own["region"]) == 1
        assert embedded.pose.shape == (1, 17, 384)
        assert embedded.depth.shape == (1, 17, 32)
        assert embedded.pose.dtype == embedded.depth.dtype == np.float16
        assert embedded.grids == {"pose": (6, 8), "depth": depth.grid}


def test_the_chosen_persons_features_go_with_the_person(models: auglift.AugliftModels, frames: list[Frame]) -> None:
    detections = models.detect(frames[:1])
    (poses,) = models.estimate_poses(frames[:1], detections)
    assert len(poses) > 1
    depths = models.estimate_depth(frames[:1], [poses])
    (everyone,) = models.embed([poses], depths, [poses.keypoints])
    last = poses.take([len(poses) - 1])
    (alone,) = models.embed([last], depths, [last.keypoints])
    np.testing.assert_array_equal(alone.pose[0], everyone.pose[-1])
    assert np.abs(everyone.pose[0].astype(float) - everyone.pose[-1]).max() > 0.01


def test_nobody_is_no_pose_and_never_the_whole_image(models: auglift.AugliftModels, frames: list[Frame]) -> None:
    strict = variant(models, min_score=0.999999)
    detections = strict.detect(frames[:2])
    assert [len(found) for found in detections] == [0, 0]
    assert detections[0].boxes.shape == (0, 4)
    poses = strict.estimate_poses(frames[:2], detections)
    assert [found.keypoints.shape for found in poses] == [(0, 17, 2)] * 2
    depths = strict.estimate_depth(frames[:2], poses)
    embedded = strict.embed(poses, depths, [found.keypoints for found in poses])
    assert embedded[0].pose.shape == (0, 17, 384)
    assert strict.detect([]) == strict.estimate_depth([], []) == []


def test_boxes_without_an_area_are_left_out(models: auglift.AugliftModels, frames: list[Frame]) -> None:
    boxes = np.array([[10, 10, 10, 90], [np.nan] * 4, [20, 30, 120, 230]], np.float32)
    (poses,) = models.estimate_poses(frames[:1], [Detections(boxes, np.ones(3, np.float32))])
    np.testing.assert_array_equal(poses.boxes, boxes[2:])
    assert np.isfinite(poses.keypoints).all()


def test_the_random_detector_fires(models: auglift.AugliftModels, samples: Path) -> None:
    pictures = [draw(500, 400, seed) for seed in range(8)]
    pictures += [np.full((300, 300, 3), level, np.uint8) for level in (0, 128, 255)]
    for path in sorted(samples.glob("**/*.jpg"))[:6]:
        image = cv2.imread(str(path))
        assert image is not None
        pictures.append(image[..., ::-1].copy())
    found = [len(boxes) for boxes, _ in models.detector.detect(pictures)]
    assert np.mean(np.array(found) > 0) >= 0.9
    assert max(found) < 40


def test_windows_on_the_device_are_those_of_the_map(together: tuple[Any, ...]) -> None:
    depth = together[3][1]
    height, width = depth.shape
    rng = np.random.default_rng(0)
    centers = rng.integers((0, 0), (width, height), (2, 17, 2))
    centers[0, :4] = [(0, 0), (width - 1, height - 1), (0, height - 1), (width - 1, 0)]
    for radius in (0, 3, 30):
        expected = ArrayDepth(depth.to_array()).windows(centers, radius)
        np.testing.assert_array_equal(depth.windows(centers, radius), expected)
    pixels = rng.integers(0, height * width, 500)
    np.testing.assert_array_equal(depth.at(pixels), depth.to_array().reshape(-1)[pixels])
    assert depth.joint_depth is None


def test_memory_that_runs_out_costs_time_only(
    models: auglift.AugliftModels, frames: list[Frame], together: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = models.depth.forward

    def tight(images: Any) -> Any:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(images)

    monkeypatch.setattr(models.depth, "forward", tight)
    monkeypatch.setattr(models.depth.batches, "size", 4)
    same = [frames[0]] * 4
    found = models.estimate_depth(same, together[2][:1] * 4)
    assert models.halvings == {"detector": 0, "pose": 0, "depth": 2}
    np.testing.assert_allclose(found[3].to_array(), together[3][0].to_array(), rtol=1e-4, atol=1e-4)


def test_identity_is_what_changes_values_and_nothing_else(models: auglift.AugliftModels) -> None:
    identity = models.identity
    assert json.loads(json.dumps(identity)) == identity
    assert identity["weights"] == {"random": 0}
    assert identity["embeddings"]["pose"]["grid"] == [6, 8]
    text = json.dumps(identity)
    assert "cpu" not in text
    assert "batch" not in text
    others = ({"seed": 1}, {"flip_test": False}, {"sampling": "bilinear"}, {"min_score": 0.4}, {"compat": "auglift"})
    base = auglift.AugliftSettings(**SMALL)
    for change in others:
        changed = auglift.AugliftModels(base.model_copy(update=change), models.detector, models.pose, models.depth, {})
        assert changed.identity != identity
    faster = auglift.AugliftModels(
        base.model_copy(update={"depth_batch": 3, "device": "auto"}), models.detector, models.pose, models.depth, {}
    )
    assert faster.identity == identity


def test_a_network_on_a_gpu_leaves_the_processor_to_decode(
    models: auglift.AugliftModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(models, OnDevice)
    assert not models.on_device
    monkeypatch.setattr(models.depth, "context", TorchContext(torch.device("cuda")))
    assert models.on_device


def test_a_run_is_planned_with_what_will_be_built(models: auglift.AugliftModels, checkpoints: Any) -> None:
    names = {key: value for key, value in SMALL.items() if key != "weights"}
    files = checkpoints(*(SMALL[part] for part in ("detector", "pose", "depth")))
    for options in (SMALL, {**names, **files}):
        built = models if options is SMALL else auglift.build(options)
        described = registry.describe("auglift", **options)
        assert described is not None
        assert (described.identity, described.channels) == (built.identity, built.channels)


@pytest.mark.parametrize("name", catalog.POSE_ESTIMATORS)
def test_the_catalogue_knows_the_features_of_pose_networks(name: str) -> None:
    network = catalog.POSE_ESTIMATORS[name]
    head = openmmlab.read_config(network.package, network.config).model.head
    assert (head.in_channels, tuple(head.in_featuremap_size)) == (network.channels, network.grid)


@pytest.mark.parametrize("name", catalog.DEPTH_ESTIMATORS)
def test_the_catalogue_knows_the_features_of_depth_networks(name: str) -> None:
    config = catalog.depth_config(catalog.DEPTH_ESTIMATORS[name])
    assert config.fusion_hidden_size == catalog.DEPTH_ESTIMATORS[name].channels
    assert config.patch_size == catalog.PATCH


def test_files_are_named_by_hash(checkpoints: Any, tmp_path: Path) -> None:
    options = checkpoints("rtmdet-nano-person", "rtmpose-t", "depth-anything-v2-indoor-tiny")
    options["depth_file"] = shutil.copytree(options["depth_file"], tmp_path / "depth")
    found = auglift.build(options).identity["weights"]
    assert {part: entry["file"] for part, entry in found.items()} == {
        "detector": "detector.pth",
        "pose": "pose.pth",
        "depth": "model.safetensors",
    }
    assert all(len(entry["sha256"]) == 64 for entry in found.values())
    assert str(options["pose_file"].parent) not in json.dumps(found)
    # Another network's file, and a depth network of another range.
    with pytest.raises(ModelError, match="The checkpoint must fit the network"):
        auglift.build({**options, "pose": "rtmpose-s"})
    with pytest.raises(ModelError, match=r"20 m in .*config\.json.*reaches 80 m"):
        auglift.build({**options, "depth": "depth-anything-v2-outdoor-tiny"})
    with pytest.raises(ModelError, match="The weights must fit the network"):
        auglift.build({**options, "depth": "depth-anything-v2-indoor-small"})
    file = options["depth_file"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="The weights must fit the network"):
        auglift.build(options)


def test_half_precision_stays_close_and_does_not_round_the_answers(
    models: auglift.AugliftModels,
    frames: list[Frame],
    together: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "etl.models.engines.torch_runtime.has_bf16", lambda: True
    )  # emulated, if need be: five frames only
    half = variant(models, precision="bf16")
    (depth,) = half.estimate_depth(frames[3:4], together[2][3:4])
    assert depth.values.dtype == torch.float32
    difference = np.abs(depth.to_array() - together[3][3].to_array())
    assert 0 < np.median(difference) < 0.3
    assert len(np.unique(depth.to_array())) > 0.5 * depth.values.numel(), "bfloat16 has a few hundred values here"
    (detected,) = half.detect(frames[3:4])
    assert detected.boxes[0].tolist() != torch.from_numpy(detected.boxes[0]).bfloat16().tolist()
    (poses,) = half.estimate_poses(frames[3:4], together[0][3:4])
    assert poses.scores.dtype == np.float32
    assert poses.scores.tolist() != torch.from_numpy(poses.scores).bfloat16().tolist()
    np.testing.assert_allclose(poses.scores, together[1][3].scores, atol=0.1)
    (embedded,) = half.embed([poses], [depth], [poses.keypoints])
    assert embedded.pose.dtype == np.float16


def test_compat_places_joints_as_the_published_scripts(
    models: auglift.AugliftModels, frames: list[Frame], together: tuple[Any, ...]
) -> None:
    compat = variant(models, compat="auglift")
    assert compat.depth.processing == "authors"
    chosen = together[2][:1]
    (depth,) = compat.estimate_depth(frames[:1], chosen)
    joints = chosen[0].keypoints + np.float32(3.3)
    (found,) = compat.embed(chosen, [depth], [joints])
    box = chosen[0].boxes[0].astype(float)
    maps = {
        "pose": (chosen[0].own["features"][0], embedding.auglift_crop_to_grid(box, (6, 8))),
        "depth": (depth.features, embedding.auglift_image_to_grid((1000, 1002), (37, 37))),
    }
    for name, (features, matrix) in maps.items():
        cells = torch.from_numpy(apply(matrix, joints))
        expected = embedding.sample(features[None], cells, snap=False)[0].numpy()
        np.testing.assert_allclose(getattr(found, name)[0].astype(float), expected, rtol=1e-3, atol=1e-3)
    # A joint a hair left of a cell's centre: the published scripts take the cells left of it, and so does this.
    grid_to_image = np.linalg.inv(embedding.auglift_image_to_grid((1000, 1002), (37, 37)))
    joints[:] = apply(grid_to_image, np.array([[20 - 1e-5, 20.5]]))
    (hair,) = compat.embed(chosen, [depth], [joints])
    cells = depth.features[:, 20:22, 19:21].mean((1, 2)).numpy()
    np.testing.assert_allclose(hair.depth[0, 0].astype(float), cells, rtol=1e-3, atol=1e-3)


def test_depth_by_the_authors_rules_is_theirs(models: auglift.AugliftModels, frames: list[Frame]) -> None:
    """Against their repository's steps, written out: cv2's cubic in double precision, align_corners on the way back."""
    models = variant(models, depth_processing="authors")
    for frame, size in zip(frames, ((518, 518), (518, 924), (924, 518), (868, 518)), strict=True):
        (depth,) = models.depth.estimate([frame.image])
        image = cv2.resize(frame.image / 255.0, size, interpolation=cv2.INTER_CUBIC)
        image = (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None]
        with torch.no_grad():
            small = models.depth.model(x).predicted_depth
        expected = torch.nn.functional.interpolate(
            small[:, None], frame.image.shape[:2], mode="bilinear", align_corners=True
        )[0, 0]
        np.testing.assert_allclose(depth.to_array(), expected.numpy(), rtol=1e-4)


def test_portrait_and_landscape_share_a_call(models: auglift.AugliftModels) -> None:
    tall, wide = draw(360, 640, 1), draw(640, 360, 2)
    camera = Camera.from_field_of_view(360, 640, 55.0)
    key = auglift_key()
    frames = [Frame(key, i, image, camera) for i, image in enumerate((tall, wide, tall))]
    depths = models.estimate_depth(frames, [])
    assert [depth.shape for depth in depths] == [(640, 360), (360, 640), (640, 360)]
    np.testing.assert_allclose(depths[0].to_array(), depths[2].to_array(), rtol=1e-4, atol=1e-4)


def auglift_key() -> Any:
    """Some sequence."""
    from schemas.keys import SequenceKey

    return SequenceKey("folder", "one", "walk", 1, "c")


def test_the_range_of_depth_is_the_scenes() -> None:
    indoor = catalog.depth_config(catalog.DEPTH_ESTIMATORS["depth-anything-v2-indoor-tiny"])
    outdoor = catalog.depth_config(catalog.DEPTH_ESTIMATORS["depth-anything-v2-outdoor-tiny"])
    assert (indoor.max_depth, outdoor.max_depth) == (20, 80)
    with torch.inference_mode():
        x = torch.zeros(1, 3, 56, 56)
        near, far = (depth_anything_weights.draw(config, 0)(x).predicted_depth for config in (indoor, outdoor))
    np.testing.assert_allclose(far.numpy(), 4 * near.numpy(), rtol=1e-5)
