from __future__ import annotations

from pathlib import Path

import pytest

from etl.stages.files.manifest import FILE, MOST_KINDS, Entry, Manifest, read_entries, read_failures, summarise


def test_counts_nothing_of_nothing() -> None:
    assert Manifest("h36m", {}, {}).counts() == {"split": {}, "subject": {}, "action": {}, "camera": {}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    name = "subject=S1/action=Walking/subaction=1/camera=2.nc"
    checks = {"projection_px": {"max": "inf"}}
    entry = Entry("train", 5, "0123", ("a note",), joint_source="random", checks=checks)
    manifest = Manifest("h36m", {name: entry}, {"now": "why"}, earlier={"before": "because"})
    (tmp_path / FILE).write_text(manifest.to_json())
    assert read_entries(tmp_path) == {}  # the file isn't there
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert read_entries(tmp_path) == {name: entry}
    assert read_failures(tmp_path) == {"now": "why", "before": "because"}


@pytest.mark.parametrize("content", [None, "{ damaged", "[]", '{"sequences": {"a": 1}, "failures": [1]}'])
def test_a_damaged_manifest_says_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert read_entries(tmp_path) == {}
    assert read_failures(tmp_path) == {}


def test_notes_that_say_the_same_of_many_are_one_line() -> None:
    notes = {f"S{n}": [f"{n} poses, {n + 2} frames: the last 2 are left out"] for n in range(1, 31)}
    notes["S7"].append("no such file as /data/7.mp4")
    notes["S9"].append("no such file as /data/9.mp4")
    notes["S5"].append("something else")
    assert summarise(notes) == [
        "S1: 1 poses, 3 frames: the last 2 are left out (and the like of 29 more sequences)",
        "S7: no such file as /data/7.mp4 (and the like of 1 more sequence)",
        "S5: something else",
    ]
    assert summarise({"S1": ()}) == []


def test_notes_of_many_kinds_are_bounded() -> None:
    lines = summarise({f"S{n}": [f"a note like no other: {'x' * n}"] for n in range(MOST_KINDS + 3)})
    assert len(lines) == MOST_KINDS + 1
    assert lines[-1].startswith("3 more kinds")
