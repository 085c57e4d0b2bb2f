"""The figure's sides, lengths and conventions, and its motions."""

from __future__ import annotations

import numpy as np
import pytest

from etl.demo.body import body, style_of
from etl.demo.figure import Pose, skeleton
from etl.demo.human36m import ACTIONS, CAMERAS, SUBJECTS, actor_at, camera_of, number_of
from etl.demo.motions import MOTIONS
from schemas.skeletons import COCO_17, COCO_TO_H36M, H36M_17, LIMB_JOINTS

MOMENTS = [(action, t) for action in MOTIONS for t in (0.0, 0.4, 1.3, 2.2)]


@pytest.mark.parametrize("subject", SUBJECTS[::3])
@pytest.mark.parametrize("camera", CAMERAS)
def test_the_right_is_right_and_the_face_is_in_front(subject: str, camera: str) -> None:
    # Independent of how the figure is built: the tests by which real data are checked.
    for action, t in MOMENTS:
        actor = actor_at(subject, action, 1, round(50 * t))
        j = camera_of(subject, camera).world_to_camera(actor.to_world(actor.skeleton.h36m))
        assert (j[14] - j[11]) @ (j[1] - j[4]) > 0
        assert np.cross(j[1] - j[4], j[8] - j[0]) @ (j[9] - j[8]) < 0


def test_facing_a_camera_the_right_hand_is_on_the_picture_s_left() -> None:
    camera = camera_of("S1", "55011271")  # stands at y = -5 and looks along +y
    pose = Pose(turn=np.pi)  # faces -y: the camera
    joints = skeleton(pose)
    world = joints.h36m @ pose.rotation.T
    x = camera.project(camera.world_to_camera(world))[:, 0]
    for right, left in zip(H36M_17.right, H36M_17.left, strict=True):
        assert x[H36M_17.joints.index(H36M_17.joints[left].replace("left", "right"))] < x[left]
        assert H36M_17.joints[right].startswith("right")
    depth = camera.world_to_camera(joints.coco @ pose.rotation.T)[:, 2]
    nose, ears = depth[0], depth[[3, 4]]
    assert (nose < ears).all()


def test_the_joints_of_both_conventions_agree_on_the_limbs() -> None:
    for action, t in MOMENTS:
        s = skeleton(MOTIONS[action](t, 0.2), 1.72)
        converted = np.stack([s.coco[list(sources)].mean(0) for sources in COCO_TO_H36M])
        limbs = list(LIMB_JOINTS)
        assert converted[limbs] == pytest.approx(s.h36m[limbs], abs=1e-12)
        # The rest differs, as it does on real people, but not by much.
        assert np.linalg.norm(converted - s.h36m, axis=1).max() < 0.2


def test_left_and_right_are_mirror_images() -> None:
    s = skeleton(Pose())
    for convention, joints in ((H36M_17, s.h36m), (COCO_17, s.coco)):
        left, right = joints[list(convention.left)], joints[list(convention.right)]
        names = [convention.joints[i].replace("left", "right") for i in convention.left]
        right = np.stack([joints[convention.joints.index(name)] for name in names])
        assert right == pytest.approx(left * [-1, 1, 1], abs=1e-12)


@pytest.mark.parametrize("height", [1.60, 1.75, 1.90])
def test_bones_keep_their_lengths_and_a_foot_is_on_the_floor(height: float) -> None:
    lengths = []
    for action, t in MOMENTS:
        s = skeleton(MOTIONS[action](t, 0.4), height)
        j = s.h36m
        lengths.append([np.linalg.norm(j[a] - j[b]) for a, b in H36M_17.bones if {a, b} != {9, 10}])
        assert min(j[3, 2], j[6, 2]) == pytest.approx(0.085 * height / 1.75)
        top = max(j[10, 2], j[8, 2])
        assert top <= 1.02 * height
    assert np.ptp(lengths, axis=0).max() < 1e-9
    standing = skeleton(Pose(), height).h36m
    assert standing[:, 2].max() == pytest.approx(height, rel=0.05)


def test_the_release_s_32_joints_have_its_duplicates() -> None:
    s = skeleton(MOTIONS["Walking"](0.7, 0.0))
    joints = s.h36m_32
    assert np.isfinite(joints).all()
    for a, b in ((0, 11), (13, 16), (13, 24), (19, 20), (27, 28)):
        assert (joints[a] == joints[b]).all()
    toes = joints[5] - joints[3]
    assert toes @ s.forward > 0.1  # the right foot points ahead
    assert joints[1] @ [1, 0, 0] > 0 > joints[6] @ [1, 0, 0]  # 1-5 are the right leg


@pytest.mark.parametrize("action", MOTIONS)
def test_motions_are_smooth_lively_and_in_the_picture(action: str) -> None:
    assert number_of(action) <= len(ACTIONS)
    times = np.arange(0, 4, 0.02)
    for subject in ("S1", "S9"):
        cameras = [camera_of(subject, name) for name in CAMERAS]
        frames = [actor_at(subject, action, 1, n) for n in range(len(times))]
        world = np.stack([a.to_world(a.skeleton.h36m) for a in frames])
        speed = np.linalg.norm(np.diff(world, axis=0), axis=-1) / 0.02
        assert 0.5 < speed.max() < 6  # m/s
        jerk = np.linalg.norm(np.diff(world, n=2, axis=0), axis=-1)
        assert jerk.max() < 0.04
        for camera in cameras:
            points = camera.world_to_camera(world)
            assert points[..., 2].min() > 3
            assert points[..., 2].max() < 7
            pixels = camera.project(points)
            assert (pixels > 20).all()
            assert (pixels < 980).all()


def test_subjects_differ() -> None:
    styles = {style_of(subject) for subject in ("S1", "S5", "S6", "S7", "S8", "S9")}
    assert len(styles) == 6
    assert all(1.70 <= style.height <= 1.76 for style in styles)
    assert style_of("S11") == style_of("S11")


def test_the_flesh_covers_the_joints() -> None:
    # Every limb joint lies inside a primitive; eyes, ears and nose on the surface of the head.
    actor = actor_at("S5", "Directions", 1, 40)
    s = actor.skeleton
    shapes = body(s, actor.pose, actor.style)

    def distance(p: np.ndarray) -> float:
        best = np.inf
        for shape in shapes:
            at = np.linspace(0, 1, 101)[:, None]
            axis = shape.start + at * (shape.end - shape.start)
            radii = shape.radii[0] + at[:, 0] * (shape.radii[1] - shape.radii[0])
            gaps = np.linalg.norm((p - axis) @ shape.warp.T, axis=1) / radii
            best = min(best, gaps.min())
        return best

    for name in H36M_17.joints:
        if name not in ("neck_base", "head"):
            assert distance(s.joints[name]) < 0.9, name
    for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear"):
        assert 0.75 < distance(s.joints[name]) < 1.15, name
