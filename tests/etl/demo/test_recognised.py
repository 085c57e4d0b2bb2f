"""Real networks recognise the figure: the renderer, the cameras and the networks' code judge each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etl.demo import human36m
from etl.demo.human36m import actor_at
from etl.demo.scene import Scene
from etl.models.base import Frame
from etl.models.embedded.model_set import BlazePose
from etl.stages.blocks.skeleton import coco_to_h36m
from schemas.keys import SequenceKey
from schemas.skeletons import LIMB_JOINTS


@pytest.mark.slow
def test_the_embedded_networks_find_the_joints(embedded_weights: Path) -> None:
    models, errors, depth_errors = BlazePose(embedded_weights), [], []
    for subject, name in (("S1", "54138969"), ("S9", "55011271")):
        camera = human36m.camera_of(subject, name)
        scene = Scene(camera)
        for action in ("Directions", "Walking"):
            for number in (0, 25):
                actor = actor_at(subject, action, 1, number)
                key = SequenceKey("h36m", subject, action, 1, name)
                frames = [Frame(key, number, scene.render(actor).image, camera)]
                poses = models.estimate_poses(frames, models.detect(frames))
                assert len(poses[0]) == 1
                points = camera.world_to_camera(actor.to_world(actor.skeleton.h36m))
                joints, _ = coco_to_h36m(poses[0].keypoints[0], poses[0].scores[0])
                errors.append(np.linalg.norm(joints - camera.project(points), axis=1)[list(LIMB_JOINTS)].mean())
                (depth,) = models.estimate_depth(frames, poses)
                assert depth.joint_depth is not None
                depth_errors.append(abs(depth.joint_depth[0, 0] / points[0, 2] - 1))
    assert np.median(errors) < 9
    assert max(errors) < 20  # left and right exchanged: 50 px and more
    assert np.median(depth_errors) < 0.05
