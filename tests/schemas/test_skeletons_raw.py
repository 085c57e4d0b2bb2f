import pytest

from schemas import skeletons_raw as raw
from schemas.skeletons import H36M_17

# The name, in each release's own words, of the joint that stands for each joint of H36M_17.
COMMON = {
    "pelvis": "pelvis", "right_hip": "right_hip", "right_knee": "right_knee", "right_foot": "right_ankle",
    "left_hip": "left_hip", "left_knee": "left_knee", "left_foot": "left_ankle",
    "left_shoulder": "left_shoulder", "left_elbow": "left_elbow", "left_wrist": "left_wrist",
    "right_shoulder": "right_shoulder", "right_elbow": "right_elbow", "right_wrist": "right_wrist",
}  # fmt: skip
TRUNKS = {
    "smpl24": {"spine": "spine2", "thorax": "neck", "neck_base": "head", "head": "head"},
    "mpi_inf_3dhp28": {"spine": "spine", "thorax": "neck", "neck_base": "head", "head": "head_top"},
    "mpi_inf_3dhp17": {"spine": "spine", "thorax": "neck", "neck_base": "head", "head": "head_top"},
    "imar25": {"spine": "spine", "thorax": "thorax", "neck_base": "neck", "head": "head_top"},
}
MAPS = [
    (raw.SMPL_24, raw.SMPL_24_TO_H36M),
    (raw.MPI_INF_3DHP_28, raw.MPI_INF_3DHP_28_TO_H36M),
    (raw.MPI_INF_3DHP_17, raw.MPI_INF_3DHP_17_TO_H36M),
    (raw.IMAR_25, raw.IMAR_25_TO_H36M),
]
SKELETONS = [raw.COCO_18, *(skeleton for skeleton, _ in MAPS)]


@pytest.mark.parametrize(("skeleton", "order"), MAPS, ids=lambda value: getattr(value, "name", ""))
def test_maps_to_h36m_go_by_the_joints_names(skeleton, order):
    names = COMMON | TRUNKS[skeleton.name]
    assert [skeleton.joints[i] for i in order] == [names[joint] for joint in H36M_17.joints]


def test_the_two_orders_of_mpi_inf_3dhp_agree():
    order = raw.MPI_INF_3DHP_28_TO_17
    assert [raw.MPI_INF_3DHP_28.joints[i] for i in order] == list(raw.MPI_INF_3DHP_17.joints)
    assert tuple(order[i] for i in raw.MPI_INF_3DHP_17_TO_H36M) == raw.MPI_INF_3DHP_28_TO_H36M
    there_and_back = [raw.MPI_INF_3DHP_17_TO_H36M[i] for i in raw.H36M_TO_MPI_INF_3DHP_17]
    assert there_and_back == [*range(17)]
    assert raw.MPI_INF_3DHP_17.index("pelvis") == 14  # MMPose's root


def test_limbs_of_coco_and_smpl_have_the_same_names():
    pairs = [(raw.COCO_18.joints[coco], raw.SMPL_24.joints[smpl]) for coco, smpl in raw.COCO_18_FROM_SMPL_24]
    assert all(coco == smpl for coco, smpl in pairs)
    assert len(set(pairs)) == 8


@pytest.mark.parametrize(("skeleton", "count"), zip(SKELETONS, (18, 24, 28, 17, 25), strict=True))
def test_skeletons_are_whole_and_symmetric(skeleton, count):
    assert len(skeleton) == len(set(skeleton.joints)) == count
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        assert skeleton.joints[left].removeprefix("left") == skeleton.joints[right].removeprefix("right")
    assert len(skeleton.left) == sum(joint.startswith("left") for joint in skeleton.joints)
    # bones make a tree: every joint but one has one parent, and sides aren't crossed
    children = [child for _, child in skeleton.bones]
    assert len(set(children)) == len(children) == count - 1
    for parent, child in skeleton.bones:
        sides = {skeleton.joints[i].partition("_")[0] for i in (parent, child)} & {"left", "right"}
        assert len(sides) < 2
