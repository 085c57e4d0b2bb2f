from __future__ import annotations

import pytest

from schemas.skeletons import COCO_17, COCO_TO_H36M, H36M_17, LIMB_JOINTS, Skeleton


@pytest.mark.parametrize("skeleton", [H36M_17, COCO_17])
def test_sides_mirror_each_other(skeleton: Skeleton) -> None:
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        assert skeleton.joints[left].replace("left", "right") == skeleton.joints[right]
    assert {j for bone in skeleton.bones for j in bone} == set(range(17))


def test_converted_joints_keep_their_side_and_meaning() -> None:
    same = {"foot": "ankle"}
    for joint in LIMB_JOINTS:
        (source,) = COCO_TO_H36M[joint]
        side, part = H36M_17.joints[joint].split("_")
        assert COCO_17.joints[source] == f"{side}_{same.get(part, part)}"


def test_synthesised_joints() -> None:
    named = {H36M_17.joints[i]: {COCO_17.joints[j] for j in js} for i, js in enumerate(COCO_TO_H36M)}
    assert named["pelvis"] == {"left_hip", "right_hip"}
    assert named["thorax"] == {"left_shoulder", "right_shoulder"}
    assert named["spine"] == named["pelvis"] | named["thorax"]
    assert named["neck_base"] == {"nose"}
    assert named["head"] == {"left_eye", "right_eye"}
