"""Where the joints would be under each known fault."""

from __future__ import annotations

import numpy as np

from etl.alignment.hypotheses import FAULTS, IDENTITY, Hypothesis, annotated_under, exchanges, shifts
from schemas.skeletons import H36M_17
from tests.etl.alignment.test_fit import track


def test_hypotheses_are_those_of_the_field() -> None:
    thin = track(np.arange(0, 100, 2))
    assert set(shifts(thin)) == {-10, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10}
    assert shifts(thin)[0] == 0
    found = [str(hypothesis.fault) for hypothesis in exchanges({"b": thin})]
    assert found == ["left_right", "left_right_legs", "left_right_arms", "camera"]
    assert set(found) <= set(FAULTS)


def test_an_exchange_of_a_part_leaves_the_other_joints() -> None:
    rows = np.arange(5)
    clean = track(rows, degrees=10)
    whole = annotated_under(Hypothesis("left_right"), clean, {}, rows)
    for fault, joints in (("left_right_arms", range(11, 17)), ("left_right_legs", range(1, 7))):
        changed = annotated_under(Hypothesis(fault), clean, {}, rows)
        others = [joint for joint in range(17) if joint not in joints]
        np.testing.assert_array_equal(changed[:, joints], whole[:, joints])
        np.testing.assert_array_equal(changed[:, others], clean.annotated[:, others])
    left_wrist, right_wrist = H36M_17.index("left_wrist"), H36M_17.index("right_wrist")
    np.testing.assert_array_equal(whole[:, left_wrist], clean.annotated[:, right_wrist])


def test_an_exchange_of_a_part_says_nothing_of_a_side_view() -> None:
    rows = np.arange(5)
    aside = track(rows, degrees=90)
    for fault in ("left_right_arms", "left_right_legs"):
        assert np.isnan(annotated_under(Hypothesis(fault), aside, {}, rows)).all()
    assert np.isfinite(annotated_under(Hypothesis("left_right"), aside, {}, rows)).all()


def test_words() -> None:
    assert str(IDENTITY) == "annotations as they are"
    assert str(Hypothesis("left_right_arms")) == "left and right arms are exchanged"
