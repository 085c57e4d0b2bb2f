"""Pictures: what is drawn where, how deep, and what is seen."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from etl.demo import human36m
from etl.demo.human36m import actor_at
from etl.demo.miniature import act
from etl.demo.raycast import capsule
from etl.demo.room import HALF_WIDTH, HEIGHT
from etl.demo.scene import Actor, Scene, visible
from schemas.camera import Camera
from schemas.skeletons import H36M_17

CAMERA = human36m.camera_of("S1", "55011271", 0.3)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(CAMERA)


def world_points(camera: Camera, depth: np.ndarray) -> np.ndarray:
    """World metres of every pixel (H, W, 3), by inverting X_c = R X_w + t."""
    y, x = np.mgrid[: camera.height, : camera.width]
    plane = camera.unproject(np.stack([x, y], -1).astype(float))
    points = np.concatenate([plane, np.ones_like(plane[..., :1])], -1) * depth[..., None]
    return (points - np.array(camera.translation)) @ np.array(camera.rotation)


def test_the_room_is_a_box(scene: Scene) -> None:
    places = world_points(CAMERA, scene.depth)
    walls = np.stack([*(np.abs(places[..., i]) - HALF_WIDTH for i in (0, 1)), -places[..., 2], places[..., 2] - HEIGHT])
    assert np.abs(walls.max(0)).max() < 1e-3  # every pixel lies on a wall, and none beyond one
    assert (np.abs(places[..., 2]) < 1e-3).sum() > 1000


def test_a_mark_at_a_joint_is_drawn_where_the_joint_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = human36m.camera_of("S1", "54138969")  # full size, so that the lens moves pixels
    scene = Scene(camera)
    for number, joint in ((0, 0), (0, 3), (0, 10), (30, 13), (30, 16)):
        actor = actor_at("S1", "Walking", 1, number)
        place = actor.skeleton.h36m[joint]
        world = actor.to_world(place)
        ball = capsule(place, place, (0.03, 0.03), (1.0, 0.0, 0.0))
        monkeypatch.setattr("etl.demo.scene.body", lambda *_, ball=ball: [ball])
        mark = scene.render(actor)
        centroid = np.argwhere(mark.mask).mean(0)[::-1]
        point = camera.world_to_camera(world)
        assert np.abs(centroid - camera.project(point)).max() < 0.2
        x, y = np.round(centroid).astype(int)
        assert mark.depth[y, x] == pytest.approx(point[2] - 0.03, abs=1e-3)
        red, green, _ = mark.image[y, x]
        assert red > 2 * green


def test_a_picture_of_a_person(scene: Scene) -> None:
    actor = actor_at("S5", "Directions", 1, 20)
    picture = scene.render(actor)
    again = scene.render(actor)
    assert np.array_equal(picture.image, again.image)
    assert picture.image.dtype == np.uint8
    assert picture.depth.dtype == np.float32
    assert picture.image.shape == (*picture.depth.shape, 3) == (CAMERA.height, CAMERA.width, 3)
    # Outside the person depth is the room's, the person is before the room, and joints are inside the body.
    assert np.array_equal(picture.depth[~picture.mask], scene.depth[~picture.mask])
    assert (picture.depth < scene.depth)[picture.mask].all()
    points = CAMERA.world_to_camera(actor.to_world(actor.skeleton.h36m))
    x, y = np.round(CAMERA.project(points)).astype(int).T
    assert picture.mask[y, x].all()
    behind = points[:, 2] - picture.depth[y, x]
    assert (behind > -0.02).all()
    assert 0.02 < picture.mask.mean() < 0.2
    # The picture shows the person there: it differs from the empty room, and only there and on the floor.
    changed = np.abs(picture.image.astype(int) - scene.empty).max(-1) > 12
    assert changed[picture.mask].mean() > 0.8
    floor = np.isfinite(scene.floor[..., 0])
    from_mask = ~picture.mask & ~floor
    assert changed[from_mask].mean() < 0.005


def test_a_joint_behind_the_body_is_hidden(scene: Scene) -> None:
    actor = actor_at("S1", "Walking", 1, 0)
    world = actor.to_world(actor.skeleton.h36m)
    points = CAMERA.world_to_camera(world)
    picture = scene.render(actor)
    seen = visible(picture, CAMERA, points, H36M_17.joints)
    # From the side: the nearer arm and leg are seen; one of each pair at least.
    depth_of = dict(zip(H36M_17.joints, points[:, 2], strict=True))
    side = "left" if depth_of["left_shoulder"] < depth_of["right_shoulder"] else "right"
    for joint in ("shoulder", "elbow", "hip"):
        assert seen[H36M_17.index(f"{side}_{joint}")]
    blocked = points + np.array([0, 0, 0.5])  # half a metre behind what was seen there
    pixels = CAMERA.project(points)
    blocked[:, :2] = CAMERA.unproject(pixels) * blocked[:, 2:]
    assert not visible(picture, CAMERA, blocked, H36M_17.joints).any()
    away = points + np.array([50.0, 0, 0])
    assert not visible(picture, CAMERA, away, H36M_17.joints).any()


def test_a_person_out_of_the_picture_leaves_an_empty_room(scene: Scene) -> None:
    actor = actor_at("S1", "Walking", 1, 0)
    far = Actor(replace(actor.pose, place=(5.0, -4.5)), actor.style)
    picture = scene.render(far)
    assert not picture.mask.any()
    assert np.array_equal(picture.depth, scene.depth)


def test_the_nearer_person_covers_the_farther(scene: Scene) -> None:
    # The camera stands at about (1.8, -4.9) and looks at the middle of the room.
    far, near = (act(name, "Greeting", 0.3, shift=place) for name, place in (("S1", (-0.1, 0.8)), ("S9", (0.3, -1.0))))
    alone, both = [scene.render(far), scene.render(near)], scene.render(far, near)
    covered = alone[0].mask & alone[1].mask
    assert covered.sum() > 100
    assert (both.people[alone[1].mask] == 2).all()
    assert (both.people[alone[0].mask & ~covered] == 1).all()
    assert (both.mask == alone[0].mask | alone[1].mask).all()
    assert np.array_equal(both.depth, np.minimum(alone[0].depth, alone[1].depth))
    # The order of names changes nothing but the names.
    other = scene.render(near, far)
    assert np.array_equal(other.image, both.image)
    assert np.array_equal(other.people, np.array([0, 2, 1])[both.people])
    # Inside, the near person looks the same as alone; the far person's joints under it aren't visible.
    inside = cv2.erode(alone[1].mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.array_equal(both.image[inside], alone[1].image[inside])
    points = CAMERA.world_to_camera(far.to_world(far.skeleton.h36m))
    x, y = np.round(CAMERA.project(points)).astype(int).T
    seen = visible(both, CAMERA, points, H36M_17.joints, 0)
    assert not seen[covered[y, x]].any()
    assert seen[~covered[y, x]].any()
    assert covered[y, x].any()


def test_nobody_leaves_an_empty_room(scene: Scene) -> None:
    assert np.array_equal(scene.render().image, scene.empty)
