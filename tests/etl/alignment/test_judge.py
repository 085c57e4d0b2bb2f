"""The judge on a rendered Human3.6M: planted faults stop the merge by their names, the clean one passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from etl import pipeline
from etl.alignment import judge
from etl.alignment.fit import Finding
from etl.alignment.judge import SequenceVerdict, read_verdicts, write_verdicts
from etl.alignment.timing import Estimate
from etl.errors import MergeError
from etl.stages.progress import Silent
from etl.store.workspace import Workspace
from schemas.skeletons import H36M_17
from tests.etl.conftest import CAMERAS, Walk

SWAP = np.arange(17)
SWAP[list(H36M_17.left + H36M_17.right)] = H36M_17.right + H36M_17.left
ARMS, LEGS = np.where(np.arange(17) < 11, np.arange(17), SWAP), np.where(np.arange(17) < 11, SWAP, np.arange(17))


def change(path: Path, name: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "a") as ds:
        ds[name][:] = how(ds[name][:])


def shifted(values: np.ndarray) -> np.ndarray:
    """What belongs to frame f + 3 stands at f, as when a reader skips the first frames of the poses."""
    return np.concatenate([values[3:], np.repeat(values[-1:], 3, axis=0)])


def upside_down(values: np.ndarray) -> np.ndarray:
    """Joints turned round the pelvis, as those of nobody are."""
    return 2 * values[:, :1] - values


def verdicts_of(walk: Walk) -> list[SequenceVerdict]:
    current = Workspace(walk.work).current("h36m")
    assert current.features is not None
    path = walk.work / "h36m" / judge.FILE
    return read_verdicts(path, annotations=current.annotations, features=current.features)


def merge(walk: Walk, **settings: object) -> list[SequenceVerdict]:
    pipeline.run(walk.config(**settings), stages=("merge",))
    return verdicts_of(walk)


def test_the_clean_miniature_has_no_fault(walk: Walk) -> None:
    verdicts = merge(walk)
    assert [v.sequence for v in verdicts] == [f"h36m S1 Walking 1 [{camera}]" for camera in CAMERAS]
    assert [v.findings for v in verdicts] == [(), ()]
    assert all(v.rows == 40 and v.error < 0.01 for v in verdicts)
    assert (walk.work / "training" / "h36m_xycd_train.npz").exists()


@pytest.mark.parametrize(
    ("variable", "how", "fault", "words"),
    [
        ("keypoints_2d", shifted, "shift", "annotated 3 frames earlier"),
        ("keypoints_2d", lambda v: v[np.arange(40) // 2], "rate", "annotated for 2 · f"),
        ("keypoints_2d", lambda v: v[np.minimum(np.arange(40) * 2, 39)], "rate", "annotated for 0.5 · f"),
        ("keypoints_2d", lambda v: v[:, SWAP], "left_right", "left and right are exchanged"),
        ("keypoints_2d", lambda v: v[:, ARMS], "left_right_arms", "left and right arms are exchanged"),
        ("keypoints_2d", lambda v: v[:, LEGS], "left_right_legs", "left and right legs are exchanged"),
        ("keypoints_2d", lambda v: v[..., ::-1], "misfit", "no known fault explains it"),
        ("keypoints_2d", lambda v: 2 * v, "misfit", "no known fault explains it"),
        ("keypoints_2d", lambda v: v + np.array([50, 0]), "misfit", "no known fault explains it"),
        ("keypoints_2d", upside_down, "misfit", "no known fault explains it"),
        ("keypoints_3d", lambda v: v * 1000, "depth_unit", "annotated depths are in mm"),
    ],
)
def test_a_planted_fault_stops_the_merge_by_its_name(
    walk: Walk, variable: str, how: Callable[[np.ndarray], np.ndarray], fault: str, words: str
) -> None:
    change(walk.annotation(CAMERAS[0]), variable, how)
    with pytest.raises(MergeError, match=words) as caught:
        merge(walk)
    assert f"1 of 2 sequences that don't: h36m S1 Walking 1 [{CAMERAS[0]}]" in str(caught.value)
    assert not (walk.work / "training" / "h36m_xycd_train.npz").exists()
    bad, good = verdicts_of(walk)
    assert [finding.fault for finding in bad.findings] == [fault]
    assert good.findings == ()


@pytest.mark.parametrize("frames", [-5, -4, -2, -1, 1, 2, 3, 5])
def test_every_shift_is_told_to_the_frame(walk: Walk, frames: int) -> None:
    place = np.clip(np.arange(40) - frames, 0, 39)
    change(walk.annotation(CAMERAS[0]), "keypoints_2d", lambda v: v[place])
    bad, good = merge(walk, judge="warn")
    (finding,) = bad.findings
    words = f"annotated {abs(frames)} frame{'s' if abs(frames) > 1 else ''} {'later' if frames > 0 else 'earlier'}"
    assert finding.fault == "shift"
    assert words in finding.text
    assert bad.shift is not None
    assert abs(bad.shift.value - frames) < 0.5
    assert good.findings == ()
    assert good.shift is not None
    assert good.shift.least < 0.25


def verdict(*, found: bool = False) -> SequenceVerdict:
    """Return a verdict with or without a finding."""
    findings = (Finding("left_right", "left and right are exchanged"),) if found else ()
    return SequenceVerdict("a", "a", 50, 0.02, findings, None, {} if found else {"shift": "too little motion"})


def test_too_few_frames_are_no_alarm_and_are_said(walk: Walk) -> None:
    change(walk.annotation(CAMERAS[0]), "keypoints_2d", lambda v: v[np.clip(np.arange(40) - 2, 0, 39)])
    change(walk.annotation(CAMERAS[0]), "valid_annotation", lambda v: np.arange(40) < 10)
    short, whole = merge(walk)
    assert short.findings == ()
    assert "where 16 are needed" in short.untold["shift"]
    assert "shift" not in whole.untold
    assert judge.left_open([short, whole])["shift"] == 1
    (note,) = judge.notes([short, whole])
    assert note.startswith("alignment: left open of 2 sequences: ")
    assert note.endswith("rate 1, shift 1")


def test_the_word_for_a_sequence() -> None:
    assert verdict().word == "aligned"
    assert verdict(found=True).word == "left_right"
    assert str(verdict(found=True)) == "a: left and right are exchanged"
    assert verdict().aligned
    few = SequenceVerdict("a", "a", 4, 0.01, untold={"camera": "too few"})
    assert few.word == "not judged"
    assert not few.aligned
    assert judge.not_judged([few, verdict(), verdict(found=True)]) == [few]
    assert judge.left_open([few]) == {}
    assert judge.notes([few, verdict(found=True)]) == [
        "misaligned: a: left and right are exchanged",
        "alignment: 1 of 2 sequences have too few frames to be judged",
    ]


def test_annotations_of_the_other_camera(walk: Walk) -> None:
    first, second = (walk.annotation(camera) for camera in CAMERAS)
    with h5py.File(first) as a, h5py.File(second) as b:
        values = np.asarray(a["keypoints_2d"][:]), np.asarray(b["keypoints_2d"][:])
    change(first, "keypoints_2d", lambda _: values[1])
    change(second, "keypoints_2d", lambda _: values[0])
    with pytest.raises(MergeError, match="2 of 2 sequences"):
        merge(walk)
    faults = [(v.findings[0].fault, v.findings[0].text) for v in verdicts_of(walk)]
    assert faults == [("camera", f"the annotations of camera {camera} fit") for camera in reversed(CAMERAS)]


def test_a_fault_can_be_a_warning_or_be_passed_over(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    change(walk.annotation(CAMERAS[1]), "keypoints_2d", lambda v: v[..., ::-1])
    notes: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: notes.append(text))
    verdicts = merge(walk, judge="warn")
    assert [len(v.findings) for v in verdicts] == [0, 1]
    assert [note for note in notes if "no known fault explains it" in note]
    assert (walk.work / "training" / "h36m_xycd_train.npz").exists()
    assert merge(walk, judge="off") == []
    assert not (walk.work / "h36m" / judge.FILE).exists()


def test_rows_that_the_release_calls_unusable_do_not_count(walk: Walk) -> None:
    path = walk.annotation(CAMERAS[0])
    change(path, "keypoints_2d", lambda v: v[..., ::-1])
    change(path, "valid_annotation", np.zeros_like)
    first, second = merge(walk)
    assert (first.word, second.word) == ("not judged", "aligned")
    assert first.rows == 0
    assert np.isnan(first.error)
    assert first.findings == ()
    assert second.rows == 40


def test_verdicts_come_back_from_their_file(tmp_path: Path) -> None:
    finding = Finding("shift", "the frames show what is annotated 3 frames later", 0.05, 0.01, 99)
    whole = SequenceVerdict("b", "q", 10, 0.02, (finding,), Estimate(3.0, 0.1, 2.5), {"camera": "too few"})
    verdicts = [SequenceVerdict("a", "p", 9, float("nan")), whole]
    path, keys = tmp_path / "judge.json", {"annotations": "a", "features": "f"}
    write_verdicts(verdicts, path, **keys)
    first, second = read_verdicts(path, **keys)
    assert np.isnan(first.error)
    assert second == verdicts[1]
    assert read_verdicts(tmp_path / "none.json", **keys) == []
    # They are about what was judged, and nothing else.
    assert read_verdicts(path, annotations="a", features="g") == []
    assert read_verdicts(path, annotations="b", features="f") == []
    path.write_text(path.read_text().replace(judge.SCHEMA, "xycd judge 1"))
    assert read_verdicts(path, **keys) == []


def test_verdicts_of_other_features_are_asked_for_again(walk: Walk) -> None:
    assert [v.word for v in merge(walk)] == ["aligned", "aligned"]
    path = walk.work / "h36m" / judge.FILE
    path.write_text(path.read_text().replace('"features": "', '"features": "other-').replace("S1 Walking", "S1 Gone"))
    assert verdicts_of(walk) == []
    assert [v.sequence for v in merge(walk)] == [f"h36m S1 Walking 1 [{camera}]" for camera in CAMERAS]
