from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etl import pipeline
from etl.errors import QueryError, WorkspaceError
from etl.results.features import open_features
from etl.results.selection import parse_frames
from etl.store.listing import Listing
from schemas.features import Status
from tests.etl import stores
from tests.etl.conftest import Walk

FAILED = {3: Status.NO_PERSON, 9: Status.DECODE_ERROR, 10: Status.DECODE_ERROR}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 sequences of 20 frames in partitions of 8, 8 and 4; frames 3, 9 and 10 failed."""
    root = tmp_path_factory.mktemp("finished") / "w"
    stores.estimate(root, stores.annotate(root, stores.keys()), FAILED, channels=(3, 2))
    return root


def test_nothing_is_opened_before_it_is_asked_for(root: Path, opens: list[str]) -> None:
    selected = open_features(root, "h36m").sel(subject="S1")
    assert str(selected.completeness()) == "complete: 80 frames in 12 finished partitions, 68 ok"
    assert not opens


def test_only_files_of_the_selection_are_opened(root: Path, opens: list[str]) -> None:
    ds = open_features(root).sel(subject="S9", action="Walking").load(annotations=True)
    assert ds.sizes["frame"] == 40
    assert opens
    assert all("subject=S9/action=Walking" in path for path in opens)


def test_only_files_of_the_frames_are_opened(root: Path, opens: list[str]) -> None:
    open_features(root).sel(subject="S9", action="Walking", camera="54138969", frame=slice(8, 15)).load()
    assert {Path(path).name[:13] for path in opens if "annotations" not in path} <= {"000000-000007", "000008-000015"}
    assert sum("000008" in path for path in opens) == 1


@pytest.mark.parametrize(
    ("chosen", "sequences"),
    [
        ({}, 8),
        ({"subject": "S1"}, 4),
        ({"subject": ["S1", "S9"], "camera": "5*1"}, 4),
        ({"action": "W*"}, 4),
        ({"split": "val", "action": ["Directions", "Walking"]}, 4),
        ({"subaction": 1}, 8),
        ({"subaction": slice(None, 1), "subject": ("S9",)}, 4),
        ({"subject": []}, 8),
    ],
)
def test_sequences_by_name(root: Path, chosen: dict[str, Any], sequences: int) -> None:
    ds = open_features(root).sel(**chosen).load()
    assert ds.sizes["frame"] == 20 * sequences
    assert len({*zip(*(ds[n].values.tolist() for n in ("subject", "action", "camera")), strict=True)}) == sequences


def test_rows_are_labelled(root: Path) -> None:
    ds = open_features(root).sel(subject="S9", action="Walking").load(annotations=True)
    assert ds["camera"].values.tolist() == ["54138969"] * 20 + ["55011271"] * 20
    assert ds["frame_number"].values.tolist() == [*range(20)] * 2
    assert set(ds["split"].values.tolist()) == {"val"}
    assert (ds.attrs["subject"], ds.attrs["action"], ds.attrs["complete"]) == ("S9", "Walking", 1)
    assert "camera" not in ds.attrs
    ok = ds["status"].values == Status.OK
    assert sorted(ds["frame_number"].values[~ok].tolist()) == [3, 3, 9, 9, 10, 10]
    np.testing.assert_allclose(ds["error_px"].values[ok], 5.0, rtol=1e-4)
    assert np.isnan(ds["error_px"].values[~ok]).all()
    depth = ds["features"].sel(feature="depth").values[ok]
    np.testing.assert_allclose(depth, np.broadcast_to(4 + ds["frame_number"].values[ok, None] / 100, depth.shape))
    assert ds["pose_embedding"].dtype == np.float16
    assert ds["pose_embedding"].shape == (40, 17, 3)


def test_annotations_are_those_of_the_row(root: Path) -> None:
    selected = open_features(root).sel(subject="S1", action="Directions", camera="55011271")
    path = selected.sources()[0].annotation
    with xr.open_dataset(path, engine="netcdf4") as annotated:
        for name in ("keypoints_2d", "keypoints_3d", "visibility", "center", "scale", "valid_annotation"):
            np.testing.assert_array_equal(selected.load(annotations=True)[name].values, annotated[name].values)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"subject": "S1", "frame": slice(5, 17, 4)},
        {"status": "decode_error"},
        {"where": "confidence < 0.3 and depth > 4.05"},
        {"status": "model_error"},
    ],
)
def test_lazy_and_eager_agree(root: Path, chosen: dict[str, Any], opens: list[str]) -> None:
    selected = open_features(root).sel(**chosen)
    lazy = selected.to_xarray(lazy=True, annotations=True)
    if not chosen:
        assert len(opens) == 1  # one file, for what all of them have in common
        assert lazy["features"].chunks[0] == (8, 8, 4) * 8
    xr.testing.assert_identical(lazy.compute(scheduler="threads"), selected.load(annotations=True))


def test_large_selections_are_lazy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_features(root).to_xarray()["features"].chunks is None
    monkeypatch.setattr("etl.results.features.LARGE", 1000)
    assert open_features(root).to_xarray()["features"].chunks is not None


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        (slice(6, 9), [6, 7, 8, 9]),
        (slice(None, 19, 9), [0, 9, 18]),
        (slice(17, None), [17, 18, 19]),
        (7, [7]),
        ([19, 0], [0, 19]),
        (slice(30, 40), []),
    ],
)
def test_frames(root: Path, frame: Any, numbers: list[int]) -> None:
    ds = open_features(root).sel(subject="S1", action="Walking", camera="55011271", frame=frame).load()
    assert ds["frame_number"].values.tolist() == numbers


def test_frames_narrow_each_other(root: Path) -> None:
    walking = open_features(root).sel(subject="S1", action="Walking", camera="55011271", frame=slice(4, 15))
    assert walking.sel(frame=[3, 5, 15, 16]).load()["frame_number"].values.tolist() == [5, 15]
    assert walking.sel(frame=slice(0, None, 5)).sel(frame=slice(9, 30)).load()["frame_number"].values.tolist() == [
        10,
        15,
    ]
    assert walking.sel(frame=17).load().sizes["frame"] == 0
    assert len(walking.sel(frame=5).paths()) == 1


def test_numbers_and_names_of_numpy(root: Path) -> None:
    selected = open_features(root)
    chosen = selected.sel(subject=np.array(["S1"]), subaction=np.int64(1), frame=np.arange(2, 4)).load()
    assert set(chosen["subject"].values.tolist()) == {"S1"}
    assert set(chosen["frame_number"].values.tolist()) == {2, 3}
    assert selected.sel(subaction=np.array([1, 2]), status=np.array(["ok"])).load().sizes["frame"] == 8 * 17
    assert selected.sel(subject=np.array([], str), status=np.array([], str)).load().sizes["frame"] == 160
    with pytest.raises(WorkspaceError, match="of subaction 2"):
        selected.sel(subaction=np.int32(2))


def test_status(root: Path) -> None:
    selected = open_features(root).sel(subject="S1")
    assert set(selected.sel(status="decode_error").load()["frame_number"].values.tolist()) == {9, 10}
    assert selected.sel(status=["ok", "no_person"]).sel(status="no_person").load().sizes["frame"] == 4
    with pytest.raises(QueryError, match="no_person"):
        selected.sel(status="good")


def test_a_condition_chooses_joints(root: Path) -> None:
    selected = open_features(root).sel(subject="S1", action="Walking", camera="55011271")
    ds = selected.sel(where="confidence > 0.78 and frame >= 8 or joint == 'pelvis' and frame == 2").load()
    assert ds["frame_number"].values.tolist() == [2, 8, *range(11, 20)]
    there = np.isfinite(ds["features"].sel(feature="x").values)
    assert there[0].nonzero()[0].tolist() == [0]
    assert there[1].nonzero()[0].tolist() == [15, 16]
    np.testing.assert_array_equal(ds["joint_valid"].values, there)
    assert selected.sel(where="status != 'ok'").load()["frame_number"].values.tolist() == [3, 9, 10]
    assert selected.sel(where="error_px > 4.9").load().sizes["frame"] == 17
    assert selected.sel(where="error_px > 5.1").load().sizes["frame"] == 0
    # Statistics are known names; this run has none.
    assert selected.sel(where="q10 > 0").load().sizes["frame"] == 0


def test_only_the_variables_asked_for(root: Path) -> None:
    ds = open_features(root).sel(subject="S1").load(variables=["joint_valid", "bbox"])
    assert set(ds.data_vars) == {"joint_valid", "bbox"}
    with pytest.raises(QueryError, match="annotations=True"):
        open_features(root).load(variables=["keypoints_3d"])


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"subject": "S5"}, "S1, S9"),
        ({"action": ["Eating", "Sitting"]}, "Directions, Walking"),
        ({"subject": "S1", "split": "val"}, "splits there: train"),
        ({"subaction": 2}, "subactions there: 1"),
        ({"subject": slice("S1", "S5")}, "pattern"),
        ({"frame": slice(9, 0, -1)}, "positive"),
    ],
)
def test_what_is_not_there_is_said(root: Path, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises((WorkspaceError, QueryError), match=words):
        open_features(root).sel(**chosen)


@pytest.mark.parametrize(
    ("text", "frames"),
    [("0:99", slice(0, 99)), ("::25", slice(None, None, 25)), ("7", slice(7, 7)), ("5:", slice(5, None))],
)
def test_frames_from_words(text: str, frames: slice) -> None:
    assert parse_frames(text) == frames


@pytest.mark.parametrize("text", ["", "a:b", "1:2:3:4", "1,2"])
def test_frames_from_other_words(text: str) -> None:
    with pytest.raises(QueryError, match="0:499"):
        parse_frames(text)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys())
    selected = open_features(tmp_path).sel(subject="S9")
    assert str(selected.completeness()) == "0 of 80 frames (0%) in 0 finished partitions, 0 ok so far"
    assert selected.load().sizes["frame"] == 0  # annotated, and not reached yet: no error
    assert selected.to_xarray(lazy=True).sizes == selected.load().sizes
    stores.estimate(tmp_path, parts[-3:])
    ds = open_features(tmp_path).sel(subject="S9").load()
    assert ds.sizes["frame"] == 20
    assert (ds.attrs["complete"], ds.attrs["rows_finished"], ds.attrs["rows_annotated"]) == (0, 20, 80)


def test_files_without_a_receipt_or_of_another_size_are_left_out(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), cameras=("54138969",)))
    stores.estimate(tmp_path, parts[:5])
    store = stores.store_of(tmp_path)
    (store.folder / parts[5].path).write_bytes(b"half")
    torn, gone = store.folder / parts[0].path, store.folder / parts[1].path
    torn.write_bytes(torn.read_bytes()[:-1])
    gone.rename(gone.with_suffix(".damaged"))
    selected = open_features(tmp_path)
    assert selected.load()["frame_number"].values.tolist() == [16, 17, 18, 19, *range(16)]
    assert selected.completeness().lost == (str(parts[0].path), str(parts[1].path))
    assert "2 damaged or lost" in str(selected.completeness())


def test_a_file_that_a_shared_disk_shows_late_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), actions=("Walking",), cameras=("54138969",)))
    stores.estimate(tmp_path, parts)
    path = stores.store_of(tmp_path).folder / parts[0].path
    aside = path.with_name("seen-by-others")
    path.rename(aside)
    monkeypatch.setattr("etl.results.features.PATIENCE", (0, 0))
    real, looks = Listing.look_again, []

    def look_again(self: Listing, folders: Iterable[PurePosixPath]) -> None:
        looks.append(1)
        if len(looks) == 2:
            aside.rename(path)
        real(self, folders)

    monkeypatch.setattr(Listing, "look_again", look_again)
    found = open_features(tmp_path)
    assert found.completeness().lost == ()
    assert found.load().sizes["frame"] == 20
    assert len(looks) == 2


def test_a_file_of_the_right_size_that_is_damaged_is_left_out(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), actions=("Walking",), cameras=("54138969",)))
    stores.estimate(tmp_path, parts)
    path = stores.store_of(tmp_path).folder / parts[0].path
    path.write_bytes(bytes(path.stat().st_size))
    selected = open_features(tmp_path)
    ds = selected.load()
    assert ds["frame_number"].values.tolist() == [*range(8, 20)]
    assert selected.completeness().lost == (str(parts[0].path),)
    # What can't be read isn't finished.
    assert (ds.attrs["complete"], ds.attrs["rows_finished"], ds.attrs["rows_annotated"]) == (0, 12, 20)
    state = selected.completeness()
    assert not state.complete
    assert (state.finished, state.ok, state.partitions) == (12, 12, 2)
    # A lazy selection, which had a place for its rows, says which file it is and what to do.
    lazy = open_features(tmp_path).to_xarray(lazy=True)
    with pytest.raises(WorkspaceError, match="--verify") as caught:
        lazy.compute()
    assert str(path) in str(caught.value)


def test_a_file_set_aside_after_it_was_found_is_read_there(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), actions=("Walking",), cameras=("54138969",)))
    stores.estimate(tmp_path, parts)
    lazy = open_features(tmp_path).to_xarray(lazy=True)
    expected = lazy.compute()
    for path in open_features(tmp_path).paths():
        path.rename(path.with_suffix(".superseded"))
    xr.testing.assert_identical(lazy.compute(), expected)
    # Opened now, they are of inputs that are no more: neither there nor lost.
    now = open_features(tmp_path).completeness()
    assert (now.finished, now.lost) == (0, ())


def test_without_annotations(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",)))
    stores.estimate(tmp_path, parts)
    for path in (tmp_path / "h36m" / "annotations").rglob("*.*"):
        path.unlink()
    selected = open_features(tmp_path).sel(subject="S1")
    ds = selected.load(annotations=True)
    assert np.isnan(ds["keypoints_2d"].values).all()
    assert not ds["valid_annotation"].values.any()
    assert str(selected.completeness()) == "80 frames in 12 finished partitions, 80 ok"


def test_two_people(tmp_path: Path) -> None:
    parts = stores.annotate(tmp_path, stores.keys(subjects=("S1",), actions=("Walking",)), people=2)
    stores.estimate(tmp_path, parts)
    ds = open_features(tmp_path).load(annotations=True)
    assert ds.sizes["frame"] == 80
    np.testing.assert_allclose(ds["error_px"].values, 5.0, rtol=1e-4)


def test_annotate_alone_leaves_the_features_in_sight(walk: Walk) -> None:
    before = open_features(walk.work, "h36m").completeness()
    pipeline.run(walk.config(), stages=("annotate",))
    assert open_features(walk.work, "h36m").completeness() == before


def test_the_text_of_a_selection_is_short(walk: Walk) -> None:
    text = repr(open_features(walk.work).sel(camera="54138969"))
    assert text.splitlines() == [
        "Features of h36m: 1 files, 40 rows (40 ok)",
        "  subjects  S1",
        "  actions   Walking",
        "  cameras   54138969",
    ]
    assert repr(open_features(walk.work).sel(frame=3)).endswith("\n  rows      chosen by status, frame or condition")
