"""The same numbers as the authors' own entry points, with the same (random) weights."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from etl.models.auglift import (
    catalog,
    openmmlab,
)
from etl.models.auglift import model_set as auglift
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS

SMALL = {"detector": "rtmdet-nano-person", "pose": "rtmpose-t", "depth": "depth-anything-v2-indoor-tiny"}
FULL = {"detector": "rtmdet-m-person", "pose": "rtmpose-l-384x288", "depth": "depth-anything-v2-indoor-small"}


@pytest.fixture(scope="module", params=[SMALL, pytest.param(FULL, marks=pytest.mark.slow)], ids=["small", "full"])
def options(request: pytest.FixtureRequest, checkpoints: Any) -> dict[str, Any]:
    """Options of a set whose weights lie in files."""
    return checkpoints(*(request.param[part] for part in ("detector", "pose", "depth")))


@pytest.fixture(scope="module", name="frames")
def some_frames(options: dict[str, Any], frames: list[Any]) -> list[Any]:
    """All pictures for small networks, a square and a portrait one for large."""
    return frames if options["pose"] == SMALL["pose"] else frames[:2]


@pytest.fixture(scope="module")
def models(options: dict[str, Any]) -> auglift.AugliftModels:
    """The set under test."""
    return auglift.build(options)


@pytest.fixture(scope="module")
def detections(models: auglift.AugliftModels, frames: list[Any]) -> list[Any]:
    """What it detects."""
    return models.detect(frames)


@pytest.fixture(scope="module")
def poses(models: auglift.AugliftModels, frames: list[Any], detections: list[Any]) -> list[Any]:
    """Where it puts the joints."""
    return models.estimate_poses(frames, detections)


@pytest.fixture(scope="module")
def pose_model(options: dict[str, Any]) -> Any:
    """The estimator that mmpose itself builds."""
    from mmpose.apis import init_model

    network = catalog.POSE_ESTIMATORS[options["pose"]]
    config = openmmlab.read_config(network.package, network.config)
    return init_model(config, str(options["pose_file"]), device="cpu")


def test_boxes_are_those_of_inference_detector(
    options: dict[str, Any], frames: list[Any], detections: list[Any]
) -> None:
    from mmdet.apis import inference_detector, init_detector
    from mmpose.evaluation.functional import nms

    network = catalog.DETECTORS[options["detector"]]
    config = openmmlab.read_config(network.package, network.config)
    detector = init_detector(config, str(options["detector_file"]), device="cpu")
    for frame, found in zip(frames, detections, strict=True):
        said = inference_detector(detector, frame.image[..., ::-1]).pred_instances.numpy()
        people = (said.labels == 0) & (said.scores > 0.3)
        rows = np.concatenate([said.bboxes, said.scores[:, None]], axis=1)[people]
        rows = rows[nms(rows, 0.3)]
        assert len(rows) > 0
        np.testing.assert_allclose(found.boxes, rows[:, :4], atol=0.01)
        np.testing.assert_allclose(found.scores, rows[:, 4], atol=1e-4)


def test_keypoints_are_those_of_inference_topdown(
    pose_model: Any, frames: list[Any], detections: list[Any], poses: list[Any]
) -> None:
    from mmpose.apis import inference_topdown

    assert pose_model.test_cfg.flip_test
    for frame, boxes, found in zip(frames, detections, poses, strict=True):
        said = inference_topdown(pose_model, frame.image[..., ::-1], boxes.boxes)
        assert len(said) == len(found) > 0
        keypoints = np.concatenate([one.pred_instances.keypoints for one in said])
        scores = np.concatenate([one.pred_instances.keypoint_scores for one in said])
        assert np.ptp(keypoints, axis=1).min() > 1, "the joints must lie apart, or this proves nothing"
        np.testing.assert_allclose(found.keypoints, keypoints, atol=0.01)
        np.testing.assert_allclose(found.scores, scores, atol=1e-4)


def test_pose_embeddings_are_what_a_hook_on_the_backbone_sees(
    models: auglift.AugliftModels, pose_model: Any, frames: list[Any], poses: list[Any]
) -> None:
    from mmpose.apis import inference_topdown
    from mmpose.structures.bbox import bbox_xyxy2cs, get_warp_matrix

    seen: list[Any] = []
    handle = pose_model.backbone.register_forward_hook(lambda _, __, output: seen.append(output[-1].numpy()))
    frames, poses = frames[1:2], poses[1:2]
    rng = np.random.default_rng(4)
    joints = [(found.keypoints + rng.uniform(-9, 9, found.keypoints.shape)).astype(np.float32) for found in poses]
    embedded = models.embed(poses, models.estimate_depth(frames, poses), joints)
    width, height = models.pose.size
    for frame, found, points, embedding in zip(frames, poses, joints, embedded, strict=True):
        seen.clear()
        inference_topdown(pose_model, frame.image[..., ::-1], found.boxes)
        unflipped, flipped = seen
        assert np.abs(unflipped - flipped).max() > 0.01
        for person, box in enumerate(found.boxes):
            center, scale = bbox_xyxy2cs(box, padding=1.25)
            scale = np.maximum(scale, scale[::-1] * (width / height, height / width))
            matrix = get_warp_matrix(center, scale, 0, output_size=(width, height))
            cells = (cv2.transform(points[person][None].astype(np.float64), matrix)[0] + 0.5) / 32 - 0.5
            truth = mean_of_four(unflipped[person], cells)
            np.testing.assert_allclose(embedding.pose[person].astype(float), truth, rtol=1e-3, atol=1e-3)
    handle.remove()


def mean_of_four(features: Any, cells: Any) -> Any:
    """The mean of the 2 x 2 cells around each position (J, 2), in plain loops."""
    _, height, width = features.shape
    rows = []
    # Positions are told apart to 2 ** -12 of a cell, so that rounding errors don't choose the neighbours.
    for x, y in np.round(cells * 4096) / 4096:
        columns = [min(max(int(np.floor(x)) + i, 0), width - 1) for i in (0, 1)]
        lines = [min(max(int(np.floor(y)) + i, 0), height - 1) for i in (0, 1)]
        rows.append(np.mean([features[:, line, column] for line in lines for column in columns], axis=0))
    return np.array(rows)


def transformers_depth(options: dict[str, Any], image: Any) -> tuple[Any, Any]:
    """Map (H, W) and third neck level (C, h, w), the way that transformers documents."""
    from transformers import AutoModelForDepthEstimation
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    # As the preprocessor_config.json of the published folders has it.
    processor = DPTImageProcessorPil(
        do_rescale=True,
        do_resize=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        keep_aspect_ratio=True,
        resample=3,
        size={"height": 518, "width": 518},
    )
    model = AutoModelForDepthEstimation.from_pretrained(options["depth_file"]).eval()
    seen: list[Any] = []
    model.neck.fusion_stage.register_forward_hook(lambda _, args, __: seen.append(args[0][2][0].numpy()))
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    found = processor.post_process_depth_estimation(outputs, target_sizes=[image.shape[:2]])
    return found[0]["predicted_depth"].numpy(), seen[0]


def test_depth_and_its_embeddings_are_those_of_transformers(
    options: dict[str, Any], models: auglift.AugliftModels, frames: list[Any], poses: list[Any]
) -> None:
    rng = np.random.default_rng(5)
    depths = models.estimate_depth(frames, poses)
    joints = []
    for frame, found in zip(frames, poses, strict=True):
        height, width = frame.image.shape[:2]
        joints.append(rng.uniform(0, (width - 1, height - 1), (len(found), 17, 2)).astype(np.float32))
    embedded = models.embed(poses, depths, joints)
    for frame, depth, points, embedding in zip(frames, depths, joints, embedded, strict=True):
        truth, features = transformers_depth(options, frame.image)
        pixels = np.rint(points).astype(int)
        at_joints = depth.windows(pixels, 0)[..., 0, 0]
        expected = truth[pixels[..., 1], pixels[..., 0]]
        assert np.ptp(expected) > 3, "metres"
        np.testing.assert_allclose(at_joints, expected, rtol=1e-4)
        height, width = frame.image.shape[:2]
        grid = np.array(features.shape[:0:-1])
        for person, places in enumerate(points):
            cells = (places.astype(np.float64) + 0.5) * grid / (width, height) - 0.5
            truth_at_joints = mean_of_four(features, cells)
            np.testing.assert_allclose(embedding.depth[person].astype(float), truth_at_joints, rtol=1e-3, atol=1e-3)
