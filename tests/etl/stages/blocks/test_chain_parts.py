"""The chain hands each block what is its own, and spreads what comes back over the annotated people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from etl.config import EstimateSettings
from etl.models.base import ArrayDepth, DepthField, Detections, Embeddings, Frame, PartialDepth, Poses
from etl.stages.blocks import compat
from etl.stages.blocks.chain import estimate_batch, feature_names
from etl.stages.blocks.descriptor import describe_frames
from etl.stages.blocks.skeleton import coco_to_h36m
from tests.etl.fakes import FakeModels, MappedModels, coco_joints
from tests.etl.stages.blocks.test_chain import IN_BOXES, InBoxes, box, frames

COMPAT = {"compat": "auglift", "statistics": True, "depth_source": "min3"}


def settings_of(**values: Any) -> EstimateSettings:
    return EstimateSettings.model_validate({"association": "person", **values})


def rough(number: int) -> NDArray[np.float32]:
    """A depth map (480, 640) in which every pixel has its own value."""
    return np.random.default_rng(number).uniform(1, 9, (480, 640)).astype(np.float32)


@dataclass(frozen=True)
class OnDevice:
    """A depth map that can't be read before it is copied; remembers what was copied."""

    values: NDArray[np.float32]
    copied: list[tuple[slice, slice]]
    joint_depth: None = None

    @property
    def shape(self) -> tuple[int, int]:
        return (480, 640)

    @staticmethod
    def copy_parts(depths: Sequence[OnDevice], parts: Sequence[tuple[slice, slice]]) -> list[DepthField]:
        for depth, part in zip(depths, parts, strict=True):
            depth.copied.append(part)
        return [
            PartialDepth(depth.values[part], part[1].start, part[0].start, depth.shape)
            for depth, part in zip(depths, parts, strict=True)
        ]


class Rough(FakeModels):
    """With maps of `rough`, on the host or on a device; remembers the poses that each block was given."""

    def __init__(self, device: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.device, self.copied, self.given = device, list[tuple[slice, slice]](), dict[str, Any]()

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        self.given["depth"] = ([frame.number for frame in frames], [p.boxes.tolist() for p in poses])
        maps = [rough(frame.number) for frame in frames]
        return [OnDevice(own, self.copied) if self.device else ArrayDepth(own) for own in maps]  # type: ignore[misc]

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Any]) -> list[Embeddings]:
        self.given["embed"] = ([p.boxes.tolist() for p in poses], [type(d) for d in depths], len(joints))
        grids = {"pose": (3, 4)}
        return [Embeddings(e.pose, e.depth, grids) for e in super().embed(poses, depths, joints)]


@pytest.mark.parametrize("descriptor", [{}, {"statistics": True, "radius_max": 40.5}, COMPAT])
def test_of_maps_on_a_device_only_the_part_around_the_joints_is_copied(descriptor: dict[str, Any]) -> None:
    settings = settings_of(descriptor=descriptor)
    here, there = Rough(), Rough(device=True)
    expected = estimate_batch(frames(3, 250), [None, None], here, settings)
    found = estimate_batch(frames(3, 250), [None, None], there, settings)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.valid.all()
        assert other.valid.all()
    # The joints reach from x = 60 + number to 48 px further (65.5 to 105.5: hips to ankles, nose), y from 40 to 120.
    reach = 42 if "radius_max" in descriptor else 31
    for number, (rows, columns) in zip((3, 250), there.copied, strict=True):
        xy = np.floor(coco_to_h36m(coco_joints(number), np.ones(17))[0] + 0.5).astype(int)
        left, top, right, bottom = (int(value) for value in (*xy.min(axis=0), *xy.max(axis=0)))
        assert (rows, columns) == (
            slice(max(top - reach, 0), bottom + reach + 1),
            slice(left - reach, right + reach + 1),
        )


@pytest.mark.parametrize("source", ["median", "min3"])
def test_compat_is_that_of_the_scripts_with_the_frames_number_as_seed(source: str) -> None:
    settings = settings_of(descriptor={**COMPAT, "depth_source": source})
    results = estimate_batch(frames(3, 4), [None, None], Rough(), settings)
    for number, result in zip((3, 4), results, strict=True):
        xy, confidence = coco_to_h36m(coco_joints(number)[None], np.full((1, 17), 0.8, np.float32))
        expected, valid = compat.describe(
            ArrayDepth(rough(number)), xy, confidence, seed=number, depth_source=source  # type: ignore[arg-type]
        )  # fmt: skip
        np.testing.assert_array_equal(result.values[..., 3:], expected)
        np.testing.assert_array_equal(result.valid, valid)
    assert feature_names(settings)[3:] == compat.NAMES


@pytest.mark.parametrize("source", ["point", "median", "min3"])
def test_without_compat_the_descriptor_is_our_own(source: str) -> None:
    settings = settings_of(descriptor={"depth_source": source, "statistics": True})
    (result,) = estimate_batch(frames(3), [None], Rough(), settings)
    xy, confidence = coco_to_h36m(coco_joints(3)[None], np.full((1, 17), 0.8, np.float32))
    ((expected, _),) = describe_frames([ArrayDepth(rough(3))], [xy], [confidence], settings.descriptor)
    np.testing.assert_array_equal(result.values[..., 3:], expected)
    assert result.values.dtype == np.float32


def test_later_blocks_get_the_people_chosen_of_frames_with_people() -> None:
    models = Rough(people=3, empty=[1], channels=(4, 2))
    settings = settings_of(association="overlap", embeddings=True)
    people = [np.array([box(n, 2), [0, 300, 20, 320], box(n, 0)], np.float32) for n in (1, 2)]
    empty, found = estimate_batch(frames(1, 2), list(people), models, settings)
    chosen = [[box(2, 2), box(2, 0)]]
    assert models.given["depth"] == ([2], chosen)
    assert models.given["embed"] == (chosen, [ArrayDepth], 1)
    assert found.found.tolist() == [True, False, True]
    assert found.embeddings.pose is not None
    assert found.embeddings.depth is not None
    assert found.embeddings.grids == {"pose": (3, 4)}
    xy = np.stack([coco_to_h36m(coco_joints(2, person), np.ones(17))[0] for person in (2, 0)])
    np.testing.assert_array_equal(found.values[[0, 2], :, :2], xy)
    for embedded, axis, channels in ((found.embeddings.pose, 0, 4), (found.embeddings.depth, 1, 2)):
        assert (embedded.shape, embedded.dtype) == ((3, 17, channels), np.float16)
        np.testing.assert_array_equal(embedded[[0, 2]], np.repeat(xy[..., [axis]], channels, -1).astype(np.float16))
        assert np.isnan(embedded[1]).all()
    assert found.box_scores[[0, 2]].tolist() == np.float32([0.5, 0.9]).tolist()
    assert np.isnan(found.box_scores[1])
    assert np.isnan(found.boxes[1]).all()
    assert empty.embeddings == Embeddings()


@pytest.mark.parametrize("association", ["person", "overlap", "ground_truth_box"])
def test_features_of_nobody_have_the_shapes_of_the_others(association: str) -> None:
    people = None if association == "person" else np.array([[np.nan] * 4] * 2, np.float32)
    settings = settings_of(association=association, descriptor={"statistics": True})
    (result,) = estimate_batch(frames(1), [people], FakeModels(empty=[1]), settings)
    count = 1 if people is None else 2
    assert result.found.tolist() == [False] * count
    shapes = {
        "values": ((count, 17, len(feature_names(settings))), np.float32),
        "valid": ((count, 17), bool),
        "boxes": ((count, 4), np.float32),
        "box_scores": ((count,), np.float32),
        "found": ((count,), bool),
    }
    for name, (shape, dtype) in shapes.items():
        array = getattr(result, name)
        assert (array.shape, array.dtype) == (shape, dtype), name
        assert not array.any() if dtype is bool else np.isnan(array).all(), name
    assert result.maps == {}


@pytest.mark.parametrize("keep", [False, True])
def test_maps_are_kept_where_asked_for_and_belong_to_their_people(keep: bool) -> None:
    models = MappedModels(people=2, channels=(3, 2))
    embeddings = {"enabled": True, "keep_maps": keep, "pose_map": (4, 3), "depth_map": (5, 3)}
    settings = settings_of(association="overlap", embeddings=embeddings)
    people = np.array([box(2, 1), [0, 300, 20, 320], box(2, 0)], np.float32)
    (result,) = estimate_batch(frames(2), [people], models, settings)
    assert models.calls["maps"] == int(keep)
    if not keep:
        assert result.maps == {}
        return
    candidates = models.estimate_poses(frames(2), models.detect(frames(2)))
    poses = [candidates[0].take([1, 0])]
    (expected,) = models.pool_maps(poses, models.estimate_depth(frames(2), poses), settings.embeddings.map_sizes)
    assert set(result.maps) == {"pose", "depth"}
    for stream, own in result.maps.items():
        assert own.grid == expected[stream].grid
        for name in ("values", "px_to_cell"):
            found, wanted = getattr(own, name), getattr(expected[stream], name)
            np.testing.assert_array_equal(found[[0, 2]], wanted)
            assert found.dtype == wanted.dtype
            assert np.isnan(found[1]).all()


def test_model_sets_without_maps_or_embeddings_are_never_asked_for_them() -> None:
    settings = settings_of(embeddings={"enabled": True, "keep_maps": True})
    models = FakeModels(channels=(0, 0))
    (result,) = estimate_batch(frames(0), [None], models, settings)
    assert models.calls["embed"] == 0
    assert result.embeddings == Embeddings()
    assert result.maps == {}


def test_the_rule_and_the_least_overlap_are_those_of_the_settings() -> None:
    class Growing(FakeModels):
        """Each person's box is larger than the one before; the first has the highest scores."""

        def detect(self, frames: Sequence[Frame]) -> list[Detections]:
            grow = np.arange(3, dtype=np.float32)[:, None] * np.float32([0, 0, 10, 10])
            return [Detections(d.boxes + grow, d.scores) for d in super().detect(frames)]

    for rule, person in (("keypoint_score", 0), ("largest_box", 2)):
        (result,) = estimate_batch(frames(0), [None], Growing(people=3), settings_of(person=rule))
        assert result.boxes[0, 0] == box(0, person)[0]
    left, top, right, bottom = box(0, 0)
    half = np.array([[left, top, left + (right - left) / 2, bottom]], np.float32)
    for least, found in ((0.4, True), (0.6, False)):
        settings = settings_of(association="overlap", min_overlap=least)
        (result,) = estimate_batch(frames(0), [half], FakeModels(), settings)
        assert result.found.tolist() == [found]


def test_compat_keeps_whole_pixels_inside_an_image_of_3dpw() -> None:
    """An image smaller than the joints' positions tells height from width."""
    from schemas.keys import SequenceKey

    image, camera = np.zeros((100, 90, 3), np.uint8), frames(0)[0].camera
    frame = Frame(SequenceKey("3dpw", "train", "walk", 0, "0"), 0, image, camera)
    (result,) = estimate_batch([frame], [None], FakeModels(), settings_of(descriptor=COMPAT))
    xy = np.trunc(coco_to_h36m(coco_joints(0), np.ones(17))[0])
    np.testing.assert_array_equal(result.values[0, :, :2], np.minimum(xy, [89, 99]))
    # Without compat, positions stay as they are.
    (result,) = estimate_batch([frame], [None], FakeModels(), settings_of())
    np.testing.assert_array_equal(result.values[0, :, :2], coco_to_h36m(coco_joints(0), np.ones(17))[0])


def test_a_frame_without_annotated_boxes_has_nobody_in_a_run_by_boxes() -> None:
    models = InBoxes()
    (result,) = estimate_batch(frames(0), [None], models, IN_BOXES)
    assert result.found.tolist() == [False]
    assert result.values.shape == (1, 17, 6)
    assert models.calls["pose"] == 0


def test_boxes_of_all_frames_are_asked_for_at_once_each_with_one_score() -> None:
    models = InBoxes()
    first, second = estimate_batch(
        frames(0, 1), [np.array([[200, 200, 300, 300]]), np.array([[300, 200, 400, 300]])], models, IN_BOXES
    )
    assert models.boxes == [(0, [50, 50, 450, 450]), (1, [150, 50, 550, 450])]
    for result in (first, second):
        assert result.found.tolist() == [True]
        assert (result.box_scores.tolist(), result.box_scores.dtype) == ([1], np.float32)
