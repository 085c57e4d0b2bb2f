"""Planted faults are found by their names, and nothing is found where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.alignment.fit import judge_depth, judge_sequence
from etl.alignment.hypotheses import FAULTS
from etl.alignment.tracks import Track, sample
from etl.demo.human36m import RATE
from schemas.camera import Camera
from schemas.skeletons import H36M_17

SWAP = np.arange(17)
SWAP[list(H36M_17.left + H36M_17.right)] = H36M_17.right + H36M_17.left
ARMS, LEGS = np.where(np.arange(17) < 11, np.arange(17), SWAP), np.where(np.arange(17) < 11, SWAP, np.arange(17))
CAMERA = Camera("a", 1000, 1000, (1100.0, 1100.0), (500.0, 500.0))
# Metres, y down: a person who faces the camera, 1.7 m high, joints in the order of H36M_17.
STANDING = np.array(
    [[0, 0, 0], [-0.13, 0, 0], [-0.14, 0.43, 0], [-0.14, 0.86, 0], [0.13, 0, 0], [0.14, 0.43, 0], [0.14, 0.86, 0],
     [0, -0.24, 0], [0, -0.5, 0], [0, -0.6, -0.05], [0, -0.75, 0],
     [0.18, -0.47, 0], [0.24, -0.2, 0], [0.26, 0.05, 0], [-0.18, -0.47, 0], [-0.24, -0.2, 0], [-0.26, 0.05, 0]]
)  # fmt: skip


def gait(seconds: np.ndarray, speed: float = 0.0) -> np.ndarray:
    """(N, 17, 3) metres, world: legs and arms swing with a period of 1.1 s, seen obliquely; `speed` m/s sideways."""
    swing = np.sin(2 * np.pi * seconds / 1.1)
    points = np.repeat(STANDING[None], len(seconds), axis=0)
    for sign, leg, arm in ((1, (2, 3), (12, 13)), (-1, (5, 6), (15, 16))):
        for joint, reach in zip((*leg, *arm), (0.2, 0.4, -0.12, -0.25), strict=True):
            points[:, joint, 2] += sign * reach * swing
            points[:, joint, 1] -= 0.1 * abs(reach) * (1 - swing**2)
    points[..., 0] += speed * seconds[:, None]
    return points


def seen_from(points: np.ndarray, degrees: float) -> np.ndarray:
    """Camera coordinates, 5 m away, turned round the vertical."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return points @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + [0, 0, 5]


def track(
    frames: np.ndarray, degrees: float = 40, noise: float = 6.0, seed: int = 0, still: bool = False, speed: float = 0.0
) -> Track:
    """Annotations of a gait, and detections with noise (px) and a constant offset of each joint."""
    rng = np.random.default_rng(seed)
    points = gait(np.zeros(len(frames)) if still else frames / RATE, speed)
    points = seen_from(points, degrees)
    annotated = CAMERA.project(points)
    offset = rng.normal(0, 5, (17, 2))
    return Track(
        frame=frames,
        person=np.zeros(len(frames), np.int64),
        annotated=annotated,
        detected=annotated + offset + rng.normal(0, noise, annotated.shape),
        true_depth=points[..., 2],
        detected_depth=points[..., 2] * 1.05,
    )


def as_detected(found: Track, seed: int = 0, share: float = 0.015) -> Track:
    """With detections as the embedded set gives them: errors that last for some frames, and are alike in a limb."""
    rng = np.random.default_rng(seed)
    white = (
        rng.normal(0, 1, (*found.annotated.shape[:2], 2))
        + np.repeat(rng.normal(0, 1, (len(found.frame), 6, 2)), 3, 1)[:, :17]
    )
    slow = np.empty_like(white)
    slow[0] = white[0]
    for row in range(1, len(white)):
        slow[row] = 0.85 * slow[row - 1] + np.sqrt(1 - 0.85**2) * white[row]
    size = share * found.size[:, None, None]
    constant = rng.normal(0, 1, (17, 2)) * share * np.median(found.size)
    return replace(found, detected=found.annotated + constant + size * slow / np.sqrt(2))


def names(found: Track, cameras: dict[str, Track] | None = None) -> list[str]:
    return [finding.fault for finding in judge_sequence(found, cameras).findings]


@given(
    degrees=st.integers(0, 359),
    noise=st.floats(0, 12),
    seed=st.integers(0, 1000),
    step=st.sampled_from([1, 2, 5]),
    still=st.booleans(),
    speed=st.sampled_from([0.0, 0.8]),
)
@settings(deadline=None, max_examples=40)
def test_no_fault_in_what_is_aligned(
    degrees: int, noise: float, seed: int, step: int, still: bool, speed: float
) -> None:
    frames = np.arange(0, 100 * step, step)
    other = {"b": track(frames, degrees + 90, noise, seed + 1, still, speed)}
    assert names(track(frames, degrees, noise, seed, still, speed), other) == []


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shift", [-5, -3, -2, 2, 3, 4])
def test_a_shift_in_a_repetitive_gait(shift: int, step: int) -> None:
    frames = np.arange(0, 150 * step, step)
    clean = track(frames)
    # What the frame f shows is annotated for f + shift.
    late = replace(clean, annotated=CAMERA.project(seen_from(gait((frames - shift) / RATE), 40)))
    (finding,) = judge_sequence(late, {"b": track(frames, 130)}).findings
    assert finding.fault == "shift"
    assert f"{abs(shift)} frames {'later' if shift > 0 else 'earlier'}" in finding.text
    assert finding.best < 0.8 * finding.identity


def test_five_rows_of_a_thinned_annotation_are_within_reach() -> None:
    frames = np.arange(0, 500, 5)
    late = replace(track(frames), annotated=CAMERA.project(seen_from(gait((frames - 15) / RATE), 40)))
    (finding,) = judge_sequence(late).findings
    assert "15 frames later" in finding.text


@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_another_rate(rate: float) -> None:
    frames = np.arange(0, 200)
    # What the frame f shows is annotated for rate · f, so the frame f is annotated with what is seen at f / rate.
    wrong = replace(track(frames), annotated=CAMERA.project(seen_from(gait(frames / rate / RATE), 40)))
    (finding,) = judge_sequence(wrong, {"b": track(frames, 130)}).findings
    assert finding.fault == "rate"
    assert f"for {rate:g} · f" in finding.text


@pytest.mark.parametrize("still", [False, True])
def test_exchanges_and_cameras(still: bool) -> None:
    frames = np.arange(100)
    clean, other = track(frames, still=still), track(frames, 130, still=still)
    cameras = {"b": other}
    assert names(replace(clean, annotated=clean.annotated[:, SWAP]), cameras) == ["left_right"]
    assert names(replace(clean, detected=clean.detected[:, SWAP]), cameras) == ["left_right"]
    assert names(replace(clean, detected=clean.detected[..., ::-1]), cameras) == ["misfit"]
    (finding,) = judge_sequence(replace(clean, annotated=other.annotated), {"b": clean}).findings
    assert finding.fault == "camera"
    assert "camera b" in finding.text


@pytest.mark.parametrize("degrees", [0, 40, 140])
def test_an_exchange_of_a_part(degrees: int) -> None:
    for clean in (track(np.arange(100), degrees), as_detected(track(np.arange(200), degrees))):
        for order, fault in ((ARMS, "left_right_arms"), (LEGS, "left_right_legs"), (SWAP, "left_right")):
            for wrong in (
                replace(clean, annotated=clean.annotated[:, order]),
                replace(clean, detected=clean.detected[:, order]),
            ):
                assert names(wrong) == [fault]


def test_legs_that_a_detector_mixes_up_in_a_side_view_are_no_fault() -> None:
    clean = as_detected(track(np.arange(200), degrees=85))
    mixed = clean.detected.copy()
    mixed[20:] = mixed[20:][:, LEGS]  # it never gets them right
    judgement = judge_sequence(replace(clean, detected=mixed))
    assert judgement.findings == ()
    assert names(replace(clean, detected=clean.detected[:, SWAP])) == ["left_right"]


def test_what_nothing_explains_is_a_misfit() -> None:
    clean = as_detected(track(np.arange(200)))
    sitting = clean.annotated.copy()
    sitting[:, 1:7] = sitting[:, [0]] + (sitting[:, 1:7] - sitting[:, [0]])[..., ::-1] * [1, 0.4]
    sitting[:, 11:] = 2 * sitting[:, [8]] - sitting[:, 11:]
    judgement = judge_sequence(replace(clean, annotated=sitting + np.array([90, -40])), {"b": track(clean.frame, 130)})
    (finding,) = judgement.findings
    assert finding.fault == "misfit"
    assert "no known fault explains it" in str(finding)
    assert finding.best is None
    assert finding.identity > 0.12
    assert judgement.timing is None


@pytest.mark.parametrize("degrees", [20, 60, 140])
def test_faults_show_through_a_detector_s_own_errors(degrees: int) -> None:
    """On a longer sequence, with errors that last and are alike in a limb."""
    frames = np.arange(250)
    clean = as_detected(track(frames, degrees), seed=degrees)
    cameras = {"b": track(frames, degrees + 90)}
    assert names(clean, cameras) == []
    for shift in (-5, -3, 3, 5):
        moved = CAMERA.project(seen_from(gait((frames - shift) / RATE), degrees))
        (finding,) = judge_sequence(replace(clean, annotated=moved), cameras).findings
        assert finding.fault == "shift"
        assert f"{abs(shift)} frames {'later' if shift > 0 else 'earlier'}" in finding.text
    for rate in (2.0, 0.5):
        faster = CAMERA.project(seen_from(gait(frames / rate / RATE), degrees))
        assert names(replace(clean, annotated=faster), cameras) == ["rate"]
    assert names(replace(clean, annotated=clean.annotated[..., ::-1]), cameras) != []
    assert names(replace(clean, annotated=cameras["b"].annotated), {"b": replace(clean, person=clean.person)}) == [
        "camera"
    ]
    assert names(replace(clean, true_depth=1000 * clean.true_depth), cameras) == ["depth_unit"]


def test_too_few_frames_leave_everything_open_and_one_camera_leaves_cameras_open() -> None:
    few = track(np.arange(4))
    judgement = judge_sequence(few)
    assert set(judgement.untold) == set(FAULTS) - {"depth_unit"}
    assert "camera" in judge_sequence(track(np.arange(50))).untold
    assert "camera" not in judge_sequence(track(np.arange(50)), {"b": track(np.arange(50), 130)}).untold


def test_a_still_person_says_nothing_about_time() -> None:
    frames = np.arange(100)
    assert names(track(frames, still=True)) == []
    shifted = track(frames, still=True)
    assert names(replace(shifted, frame=shifted.frame + 5)) == []


def test_units_of_depth() -> None:
    clean = track(np.arange(20))
    assert names(replace(clean, detected_depth=clean.detected_depth * 1000)) == ["depth_unit"]
    assert names(replace(clean, true_depth=clean.true_depth * 1000)) == ["depth_unit"]
    assert names(replace(clean, detected_depth=clean.detected_depth * 2.5)) == []
    finding = judge_depth(np.full(30, 4200.0), np.full(30, 4.0), {})
    assert finding is not None
    assert finding.best == pytest.approx(1050)
    assert "1.05e+03 times" in str(finding)


def test_two_faults_are_both_named() -> None:
    clean = track(np.arange(100))
    both = replace(clean, annotated=clean.annotated[:, SWAP], detected_depth=clean.detected_depth * 1000)
    assert names(both) == ["left_right", "depth_unit"]


def test_missing_rows_and_few_rows() -> None:
    clean = track(np.arange(100))
    holes = clean.detected.copy()
    holes[::3] = np.nan
    annotated = clean.annotated[:, SWAP].copy()
    annotated[10:20] = np.nan
    assert names(replace(clean, detected=holes, annotated=annotated)) == ["left_right"]
    nothing = replace(clean, detected=np.full_like(holes, np.nan), detected_depth=np.full((100, 17), np.nan))
    assert names(nothing) == []
    few = track(np.arange(4))
    assert names(replace(few, annotated=few.annotated[:, SWAP])) == []


def test_a_noisy_detector_that_mixes_up_sides_now_and_then_is_no_fault() -> None:
    clean = track(np.arange(100))
    mixed = clean.detected.copy()
    mixed[:45] = mixed[:45][:, SWAP]
    assert names(replace(clean, detected=mixed)) == []


def test_people_are_sampled_apart() -> None:
    one = track(np.arange(0, 20, 2), speed=1.0)
    both = Track(
        np.tile(one.frame, 2), np.repeat([0, 1], 10), np.concatenate([one.annotated, one.annotated + 300]),
        *(np.concatenate([v, v]) for v in (one.detected, one.true_depth, one.detected_depth)),
    )  # fmt: skip
    got = sample(both, np.array([0, 1, 1]), np.array([3.0, 3.0, 19.0]))
    np.testing.assert_allclose(got[0], (one.annotated[1] + one.annotated[2]) / 2)
    np.testing.assert_allclose(got[1], got[0] + 300)
    assert np.isnan(got[2]).all()
    gap = replace(one, frame=np.where(one.frame > 8, one.frame + 20, one.frame))
    assert np.isnan(sample(gap, np.array([0]), np.array([15.0]))).all()


@pytest.mark.parametrize(("factor", "faults"), [(300, []), (330, ["depth_unit"]), (3100, ["depth_unit"]), (3200, [])])
def test_the_factor_of_units_at_both_sides(factor: float, faults: list[str]) -> None:
    clean = track(np.arange(20))
    assert names(replace(clean, detected_depth=clean.true_depth * factor)) == faults


@pytest.mark.parametrize(("count", "judged"), [(4, False), (5, True)])
def test_the_least_number_of_frames_at_both_sides(count: int, judged: bool) -> None:
    few = track(np.arange(count))
    assert names(replace(few, annotated=few.annotated[:, SWAP])) == (["left_right"] if judged else [])
    assert ("left_right" not in judge_sequence(few).untold) == judged


@pytest.mark.parametrize(("count", "judged"), [(17, False), (18, True)])
def test_the_least_number_of_frames_for_time_at_both_sides(count: int, judged: bool) -> None:
    # One row at either end has no neighbour to tell its speed.
    reason = judge_sequence(track(np.arange(count))).untold.get("rate", "")
    assert ("16 are needed" not in reason) == judged


@pytest.mark.parametrize(("share", "faults"), [(0.11, []), (0.13, ["misfit"])])
def test_a_misfit_at_both_sides(share: float, faults: list[str]) -> None:
    clean = track(np.arange(100), noise=0)
    moved = clean.annotated + share * clean.size[:, None, None] * [1.0, 0.0]
    assert names(replace(clean, detected=moved)) == faults


@pytest.mark.parametrize(("share", "faults"), [(0.5, []), (0.9, ["left_right"])])
def test_the_share_of_exchanged_frames_at_both_sides(share: float, faults: list[str]) -> None:
    clean = track(np.arange(100))
    mixed = clean.detected.copy()
    mixed[: round(100 * share)] = mixed[: round(100 * share)][:, SWAP]
    assert names(replace(clean, detected=mixed)) == faults
