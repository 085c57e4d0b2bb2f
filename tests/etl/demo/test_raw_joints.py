import numpy as np
import pytest

from etl.datasets.threedpw.reader import detected, h36m_joints
from etl.demo.raw_joints import facing, imar_25, mpi_inf_3dhp_28, openpose_18, smpl_24
from etl.demo.raw_media import write_video
from etl.media.frames import Media, decode, frame_count, media_rate
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import (
    COCO_18,
    IMAR_25,
    IMAR_25_TO_H36M,
    MPI_INF_3DHP_28,
    MPI_INF_3DHP_28_TO_H36M,
    SMPL_24,
)
from tests.etl.datasets.media import number_of, numbered
from tests.etl.datasets.people import STANDING, people

JOINTS = people(4)


def test_facing_is_where_the_face_is():
    np.testing.assert_allclose(facing(STANDING), [0, 1, 0], atol=0.05)


@pytest.mark.parametrize(
    ("make", "skeleton", "back"),
    [
        (mpi_inf_3dhp_28, MPI_INF_3DHP_28, lambda raw: raw[:, list(MPI_INF_3DHP_28_TO_H36M)]),
        (imar_25, IMAR_25, lambda raw: raw[:, list(IMAR_25_TO_H36M)]),
        (smpl_24, SMPL_24, h36m_joints),
    ],
    ids=["3dhp", "fit3d", "3dpw"],
)
def test_h36m_joints_come_back_and_the_others_are_on_the_body(make, skeleton, back):
    raw = make(JOINTS)
    assert raw.shape == (4, len(skeleton), 3)
    found = back(raw)
    same = [i for i, name in enumerate(H36M_17.joints) if make is not smpl_24 or name != "neck_base"]
    np.testing.assert_allclose(found[:, same], JOINTS[:, same], atol=1e-12)
    lengths = [np.linalg.norm(raw[:, a] - raw[:, b], axis=-1).max() for a, b in skeleton.bones]
    assert max(lengths) < 0.55
    toes = raw[:, [i for i, name in enumerate(skeleton.joints) if name in ("left_foot", "right_foot")]]
    ankles = raw[:, [i for i, name in enumerate(skeleton.joints) if name in ("left_ankle", "right_ankle")]]
    assert (((toes - ankles) * facing(JOINTS)[:, None]).sum(-1) > 0.05).all()


def test_detections_have_openposes_layout():
    smpl = smpl_24(JOINTS)
    smpl[..., 2] += 3
    smpl[1, SMPL_24.index("left_wrist"), 2] = -1
    pixels = smpl[..., :2] * 100
    found = openpose_18(smpl, pixels)
    assert found.shape == (4, 3, 18)
    knee = COCO_18.index("right_knee")
    np.testing.assert_array_equal(found[:, :2, knee], pixels[:, SMPL_24.index("right_knee")])
    assert found[1, 2, COCO_18.index("left_wrist")] == 0
    assert (found[:, :, COCO_18.index("left_ear")] == 0).all()
    assert detected(np.swapaxes(found, -1, -2)).all()


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mp4", "libx264", 50), ("a.avi", "mpeg4", 25)])
def test_videos_keep_every_frame_in_order(tmp_path, name, codec, rate):
    assert write_video(tmp_path / name, (numbered(n) for n in range(13)), rate, codec) == 13
    media = Media("video", name)
    assert (frame_count(tmp_path, media), media_rate(tmp_path, media)) == (13, rate)
    assert [number_of(frame.image) for frame in decode(tmp_path, media, range(13))] == [*range(13)]
