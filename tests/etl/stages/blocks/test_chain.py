from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from etl.config import EstimateSettings, ModelSettings
from etl.models.base import Detections, Frame, Poses
from etl.stages.blocks.chain import estimate_batch, feature_names
from etl.stages.blocks.skeleton import coco_to_h36m
from etl.stages.identity import describe_stage
from schemas.camera import Camera
from schemas.keys import SequenceKey
from tests.etl.fakes import FakeModels, coco_joints, depth_of

KEY = SequenceKey("h36m", "S1", "Walking", 1, "0")
CAMERA = Camera.from_field_of_view(640, 480, 55)
BY_RULE = EstimateSettings(association="person")
BY_OVERLAP = EstimateSettings(association="overlap")


def frames(*numbers: int) -> list[Frame]:
    return [Frame(KEY, n, np.zeros((480, 640, 3), np.uint8), CAMERA) for n in numbers]


def box(number: int, person: int) -> list[float]:
    joints = coco_joints(number, person)
    return [*joints.min(0), *joints.max(0)]


def test_features_are_the_converted_joints_and_their_depth() -> None:
    (result,) = estimate_batch(frames(4), [None], FakeModels(), BY_RULE)
    xy, confidence = coco_to_h36m(coco_joints(4), np.full(17, 0.8, np.float32))
    names = feature_names(BY_RULE)
    np.testing.assert_allclose(result.values[0, :, :2], xy, atol=1e-4)
    np.testing.assert_allclose(result.values[0, :, names.index("confidence")], confidence, atol=1e-6)
    for name in ("depth", "depth_min", "depth_max"):
        np.testing.assert_allclose(result.values[0, :, names.index(name)], depth_of(4))
    assert result.found.tolist() == [True]
    assert result.valid.all()


def test_the_rule_chooses_one_of_several_people() -> None:
    (result,) = estimate_batch(frames(0), [None], FakeModels(people=3), BY_RULE)
    assert result.values.shape[0] == 1
    np.testing.assert_allclose(result.boxes[0], box(0, 0))


def test_annotated_people_get_their_own_detections_in_their_order() -> None:
    people = np.array([box(0, 2), [0, 300, 20, 320], box(0, 1)], np.float32)
    (result,) = estimate_batch(frames(0), [people], FakeModels(people=3), BY_OVERLAP)
    assert result.found.tolist() == [True, False, True]
    np.testing.assert_allclose(result.boxes[[0, 2]], people[[0, 2]])
    assert np.isnan(result.values[1]).all()
    assert not result.valid[1].any()


class InBoxes(FakeModels):
    """Finds a pose in the corner of every box, but in none that `rejects`; remembers the boxes."""

    def __init__(self, rejects: Sequence[float] = ()) -> None:
        super().__init__()
        self.rejects, self.boxes = set(rejects), []  # type: ignore[var-annotated]

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        self._count("pose", len(frames))
        self.boxes += [
            (frame.number, box.tolist()) for frame, d in zip(frames, detections, strict=True) for box in d.boxes
        ]
        found = []
        for d in detections:
            kept = [i for i, box in enumerate(d.boxes) if float(box[0]) not in self.rejects]
            steps = np.arange(17, dtype=np.float32)[:, None] / np.float32(17)
            joints = np.repeat(d.boxes[kept][:, None, :2], 17, axis=1) + steps
            scores = np.full((len(kept), 17), 0.01, np.float32)
            own = {"x": d.boxes[kept, 0], "names": [f"{box[0]:g}" for box in d.boxes[kept]]}
            found.append(Poses(joints, scores, d.boxes[kept], d.scores[kept], own))
        return found


IN_BOXES = EstimateSettings(association="ground_truth_box")


def test_annotated_boxes_are_those_of_the_published_scripts() -> None:
    models = InBoxes()
    # Joints are truncated to integers, toward zero; the box is within the image of 640 x 480.
    people = np.array([[200.9, 160.2, 300.9, 300.7], [-3.7, 20, 100, 470.5], [500, 200, 700, 210]], np.float32)
    (result,) = estimate_batch(frames(5), [people], models, IN_BOXES)
    assert models.calls["detect"] == 0
    assert models.boxes == [(5, [50, 10, 450, 450]), (5, [0, 0, 250, 479]), (5, [350, 50, 639, 360])]
    assert result.found.all()
    assert result.boxes.tolist() == [box for _, box in models.boxes]


def test_the_pose_in_a_person_s_box_is_that_person_however_poor() -> None:
    # The first is unknown, the third is rejected, the last is far outside; two have one box.
    first, second = [210, 160, 220, 300], [260, 180, 270, 190]
    people = np.array([[np.nan] * 4, first, [400, 200, 410, 210], second, first, [900, 0, 950, 50]], np.float32)
    models = InBoxes(rejects=[250])
    nobody, result = estimate_batch(frames(0, 1), [people[:1], people], models, IN_BOXES)
    assert nobody.found.tolist() == [False]
    assert result.found.tolist() == [False, True, False, True, True, False]
    # The poses overlap the people nowhere near enough for a match.
    assert np.floor(result.values[result.found, 0, :2]).tolist() == [[60, 10], [110, 30], [60, 10]]
    assert np.isnan(result.values[~result.found]).all()
    assert models.frames["depth"] == 1
    assert models.calls["pose"] == 1


def test_people_of_several_boxes_are_joined_with_all_that_belongs_to_them() -> None:
    models, one = InBoxes(), np.ones(1, np.float32)
    boxes = np.array([[10, 20, 30, 40], [50, 60, 70, 80]], np.float32)
    parts = models.estimate_poses(frames(0, 0), [Detections(box[None], one) for box in boxes])
    joined = Poses.join([Poses.nobody(), *parts])
    assert joined.boxes.tolist() == boxes.tolist()
    assert joined.own["x"].tolist() == [10, 50]
    assert joined.own["names"] == ["10", "50"]
    assert Poses.join(parts[:1]) is parts[0]
    assert len(Poses.join([])) == 0


def test_boxes_of_one_run_are_in_the_stage_key_and_others_keys_stay() -> None:
    def of(association: str) -> dict[str, object]:
        settings = EstimateSettings.model_validate({"association": association})
        return describe_stage(ModelSettings(set="tests.etl.fakes:build"), settings, {})

    assert "150 px" in str(of("ground_truth_box")["boxes"])
    assert set(of("overlap")) == set(of("person")) == {"stage", "models", "parameters", "frames"}


def test_depth_is_computed_once_a_frame_and_never_for_empty_ones() -> None:
    models = FakeModels(people=2, empty=[1])
    people = [np.array([box(n, 0), box(n, 1)], np.float32) for n in range(4)]
    results = estimate_batch(frames(0, 1, 2, 3), list(people), models, BY_OVERLAP)
    assert models.frames["depth"] == 3
    assert models.calls["depth"] == 1
    assert [r.found.tolist() for r in results] == [[True, True], [False, False], [True, True], [True, True]]


@pytest.mark.parametrize("wanted", [False, True])
def test_embeddings_only_where_asked_for(wanted: bool) -> None:
    models = FakeModels(channels=(4, 2), empty=[0])
    settings = EstimateSettings(association="person", embeddings=wanted)
    empty, found = estimate_batch(frames(0, 1), [None, None], models, settings)
    assert (found.embeddings.pose is not None) == wanted
    assert models.frames["embed"] == int(wanted)
    assert empty.embeddings.pose is None
    if wanted:
        assert found.embeddings.pose is not None
        np.testing.assert_allclose(found.embeddings.pose[0, :, 3], found.values[0, :, 0], rtol=1e-3)


def test_statistics_lengthen_the_features() -> None:
    settings = EstimateSettings.model_validate({"association": "person", "descriptor": {"statistics": True}})
    (result,) = estimate_batch(frames(0), [None], FakeModels(), settings)
    names = feature_names(settings)
    assert result.values.shape[-1] == len(names)
    np.testing.assert_allclose(result.values[0, :, names.index("median")], depth_of(0))
    np.testing.assert_allclose(result.values[0, :, names.index("std")], 0, atol=1e-6)


def test_compat_describes_as_the_published_scripts_do() -> None:
    descriptor = {"statistics": True, "depth_source": "median", "compat": "auglift"}
    settings = EstimateSettings.model_validate({"association": "person", "descriptor": descriptor})
    (first,) = estimate_batch(frames(3), [None], FakeModels(), settings)
    (again,) = estimate_batch(frames(3), [None], FakeModels(), settings)
    np.testing.assert_array_equal(first.values, again.values)  # the random sample is seeded by the frame
    names = feature_names(settings)
    own = coco_to_h36m(coco_joints(3), np.full(17, 0.8, np.float32))[0]
    # The sample's own pixel nearest to the median is some pixel of the disc, not the joint's.
    column = [names.index("median_x"), names.index("median_y")]
    offset = np.linalg.norm(first.values[0][:, column] - own, axis=-1)
    assert (offset <= first.values[0, :, names.index("radius")] + 2**0.5).all()
    assert offset.max() > 0.5


@pytest.mark.parametrize("change", [{"statistics": False}, {"depth_source": "point"}])
def test_compat_says_what_it_needs(change: dict[str, object]) -> None:
    descriptor = {"statistics": True, "depth_source": "median", "compat": "auglift", **change}
    with pytest.raises(ValueError, match="statistics = true"):
        EstimateSettings.model_validate({"descriptor": descriptor})


def test_compat_keeps_whole_pixels_for_3dpw_alone() -> None:
    rules = {"compat": "auglift", "statistics": True, "depth_source": "median"}
    settings = EstimateSettings.model_validate({"association": "person", "descriptor": rules})
    (plain,) = estimate_batch(frames(4), [None], FakeModels(), settings)
    image = np.zeros((480, 640, 3), np.uint8)
    outdoors = Frame(SequenceKey("3dpw", "train", "walk", 0, "0"), 4, image, CAMERA)
    (whole,) = estimate_batch([outdoors], [None], FakeModels(), settings)
    xy, _ = coco_to_h36m(coco_joints(4), np.full(17, 0.8, np.float32))
    np.testing.assert_allclose(plain.values[0, :, :2], xy, atol=1e-4)
    np.testing.assert_array_equal(whole.values[0, :, :2], np.trunc(plain.values[0, :, :2]))
