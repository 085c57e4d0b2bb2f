from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etl.errors import MergeError, WorkspaceError
from etl.stages.merge import SequenceFiles, _Pool, merge
from schemas import annotation, features, xycd
from schemas.features import Status
from schemas.keys import SequenceKey

FIRST = SequenceKey("h36m", "S1", "Directions", 1, "54138969")
SECOND = SequenceKey("h36m", "S11", "WalkTogether", 2, "60457274")


class Store:
    """Annotation and feature files in a folder, and what they hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.annotations: dict[SequenceKey, xr.Dataset] = {}
        self.features: dict[SequenceKey, dict[tuple[int, int], xr.Dataset]] = {}
        self.pairs: list[SequenceFiles] = []

    def add(self, key: SequenceKey, parts: list[xr.Dataset], ds: xr.Dataset) -> SequenceFiles:
        """Add a sequence of these feature datasets."""
        folder = self.folder / key.path
        folder.mkdir(parents=True, exist_ok=True)
        ds.to_netcdf(folder / "annotation.nc", engine="netcdf4")
        paths = []
        for i, part in enumerate(parts):
            features.validate(part)
            paths.append(folder / f"{i}.nc")
            part.to_netcdf(paths[-1], engine="netcdf4")
            for row in range(part.sizes["frame"]):
                one = part.isel(frame=row)
                self.features.setdefault(key, {})[int(one["person"]), int(one["frame_number"])] = one
        self.annotations[key] = ds
        self.pairs.append(SequenceFiles(folder / "annotation.nc", tuple(paths)))
        return self.pairs[-1]


def part(key, frame_numbers, people=None, seed=0, **options) -> xr.Dataset:
    """Random features of these rows."""
    ds = features.mock(key, len(frame_numbers), seed=seed, **options)
    ds["frame_number"].values[:] = frame_numbers
    ds["person"].values[:] = 0 if people is None else people
    ds.attrs["stage"] = "these models"
    return ds


def fail(ds: xr.Dataset, row: int, status: Status) -> xr.Dataset:
    """Make a row one that isn't ok."""
    ds["features"].values[row] = np.nan
    ds["joint_valid"].values[row] = False
    ds["status"].values[row] = status
    return ds


@pytest.fixture
def store(tmp_path) -> Store:
    """Two people in 6 frames whose rows are interleaved in files of two, in wrong order; and one person in 4 frames."""
    store = Store(tmp_path / "store")
    options = {"statistics": True, "pose_channels": 6, "depth_channels": 3}
    second = [part(SECOND, [f, f, f + 1, f + 1], [1, 0, 0, 1], seed=f, **options) for f in (4, 0, 2)]
    fail(second[0], 2, Status.NO_PERSON)  # person 0 in frame 5
    second[1]["features"].values[0, 4, 2] = 1.5  # confidence of person 1 in frame 0
    second[1]["features"].values[0, 5, 3:] = np.nan
    second[1]["joint_valid"].values[0, 5] = False
    store.add(SECOND, second, annotation.mock(SECOND, 6, people=2, seed=1))
    first = [part(FIRST, range(4), seed=9, **options)]
    fail(first[0], 0, Status.DECODE_ERROR)
    store.add(FIRST, first, annotation.mock(FIRST, 4, seed=2))
    return store


def load(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        return {file.stem: np.load(file, allow_pickle=False) for file in path.iterdir()}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize(("format", "workers"), [("npz", 1), ("npz", 2), ("npy", 1)])
def test_every_row_holds_what_its_files_hold(store, tmp_path, format, workers):
    output = tmp_path / "train"
    report = merge(store.pairs, output, format=format, workers=workers, metadata={"models": ["a"]})
    xycd.validate(output)
    found = load(output)
    assert len(found["frame"]) == report.rows == 16
    row = 0
    for key in (FIRST, SECOND):  # the order of the keys, not that of the pairs
        truth = store.annotations[key]
        names = annotation.imgname_of(truth)
        for i in range(truth.sizes["frame"]):
            person, frame = int(truth["person"][i]), int(truth["frame_number"][i])
            assert found["imgname"][row] == names[i]
            assert (found["subject"][row], found["action"][row], found["camera"][row]) == (
                key.subject,
                key.action,
                key.camera,
            )
            assert (found["subaction"][row], found["frame"][row], found["person"][row]) == (
                key.subaction,
                frame,
                person,
            )
            assert found["valid_annotation"][row]
            np.testing.assert_array_equal(found["part"][row, :, :2], truth["keypoints_2d"][i].values.astype(np.float32))
            np.testing.assert_array_equal(found["S"][row, :, :3], truth["keypoints_3d"][i].values.astype(np.float32))
            assert (found["part"][row, :, 2] == 1).all()
            assert (found["S"][row, :, 3] == 1).all()
            np.testing.assert_array_equal(found["center"][row], truth["center"][i].values.astype(np.float32))
            assert found["scale"][row] == np.float32(truth["scale"][i])

            source = store.features[key][person, frame]
            ok = int(source["status"]) == Status.OK
            value = {str(n): v for n, v in zip(source["feature"].values, source["features"].values.T, strict=True)}
            assert found["valid_detection"][row] == ok
            np.testing.assert_array_equal(found["joint_valid"][row], source["joint_valid"].values)
            wanted = {
                "predicted_keypoints": np.stack([value["x"], value["y"]], axis=1),
                "predicted_keypoints_score": value["confidence"].clip(0, 1),
                "predicted_da_depth": value["depth"],
                "depth_min": value["depth_min"],
                "depth_max": value["depth_max"],
                "rtm_joint_feats": features.decode_float16(source["pose_embedding"].values),
                "dav2_joint_feats": features.decode_float16(source["depth_embedding"].values),
            }
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name][row], np.nan_to_num(array) if ok else np.zeros_like(array))
            radius = np.nan_to_num(value["radius"])
            np.testing.assert_array_equal(found["summary_casp_descriptor_10d"][row, :, 3], radius)
            row += 1
    assert found["predicted_keypoints_score"][10, 4] == 1  # 1.5, clipped
    assert not found["joint_valid"][10, 5]
    assert found["xycd"].shape == (16, 17, 4)
    assert (found["rtm_joint_feats"].shape, found["dav2_joint_feats"].shape) == ((16, 17, 6), (16, 17, 3))

    assert report.ok == 14
    assert report.failed == {"decode_error": 1, "no_person": 1}
    assert [(s.sequence, s.first, s.rows, s.ok, s.failed) for s in report.sequences] == [
        (str(FIRST), 0, 4, 3, {"decode_error": 1}),
        (str(SECOND), 4, 12, 11, {"no_person": 1}),
    ]
    metadata = json.loads(str(found["metadata"]))
    assert metadata["models"] == ["a"]
    assert metadata["counts"] == {"rows": 16, "ok": 14, "failed": report.failed, "sequences": 2}
    json.dumps(report.to_dict())


def test_sizes_of_the_maps_behind_embeddings_are_told(store, tmp_path):
    for number, pair in enumerate(store.pairs):
        for path in pair.features:
            ds = xr.load_dataset(path).assign_attrs(
                embedding_grids=json.dumps({"pose": [[9, 12]], "depth": [[37, 37 + number]]})
            )
            ds.to_netcdf(path)
    merge(store.pairs, tmp_path / "a.npz")
    metadata = json.loads(str(load(tmp_path / "a.npz")["metadata"]))
    assert metadata["embedding_grids"] == {"depth": [[37, 37], [37, 38]], "pose": [[9, 12]]}


def test_any_number_of_workers_writes_the_same_bytes(store, tmp_path):
    merge(store.pairs, tmp_path / "one.npz")
    merge(store.pairs[::-1], tmp_path / "two.npz", workers=2)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_predictions_never_hold_the_truth_and_part_may_be_detected(store, tmp_path):
    merge(store.pairs, tmp_path / "a.npz", part="detected")
    found = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["part"][..., :2], found["predicted_keypoints"])
    np.testing.assert_array_equal(found["part"][..., 2], found["joint_valid"])
    assert not found["part"][0].any()
    assert (found["S"][0, :, 3] == 1).all()
    merge(store.pairs, tmp_path / "b.npz", part="detected", compat="auglift")
    found = load(tmp_path / "b.npz")
    xycd.validate(tmp_path / "b.npz")
    assert (found["part"][..., 2] == 1).all()
    assert found["casp_descriptors"].dtype == np.float16
    assert found["predicted_keypoints_score"][10, 4] == 1.5


def test_progress_counts_every_row(store, tmp_path):
    told = []

    class Recorder:
        def start(self, title, total, done=0, unit="frames"):
            told.append((title, total, done, unit))

        def advance(self, units, failed=0, **facts):
            told.append((units, failed))

        def finish(self, summary):
            told.append(summary)

        def note(self, text):
            raise AssertionError(text)

    merge(store.pairs, tmp_path / "a.npz", progress=Recorder())
    assert told == [("merge", 16, 0, "rows"), (4, 1), (12, 1), f"16 rows, 14 with a detection: {tmp_path / 'a.npz'}"]


def test_an_older_result_is_replaced(store, tmp_path):
    for pairs, rows in ((store.pairs, 16), (store.pairs[:1], 12)):
        for name, format in (("a.npz", "npz"), ("a", "npy")):
            merge(pairs, tmp_path / name, format=format)
            assert len(load(tmp_path / name)["frame"]) == rows


def error_of(pairs, tmp_path, **options) -> str:
    with pytest.raises(MergeError) as error:
        merge(pairs, tmp_path / "out" / "a.npz", **options)
    assert not (tmp_path / "out").exists()  # nothing is begun
    return str(error.value)


def test_rows_without_features(store, tmp_path):
    pairs = [SequenceFiles(store.pairs[0].annotation, store.pairs[0].features[1:]), store.pairs[1]]
    text = error_of(pairs, tmp_path)
    assert "4 rows without features, in 1 sequences" in text
    assert f"{SECOND}: 4 of 12 rows (frame 4 person 0, frame 5 person 0, frame 4 person 1" in text
    assert "xycd estimate" in text
    report = merge(pairs, tmp_path / "a.npz", allow_missing=True)
    found = load(tmp_path / "a.npz")
    xycd.validate(found)
    assert report.failed == {"decode_error": 1, "not_run": 4}
    assert report.sequences[1].missing == ((0, 4), (0, 5), (1, 4), (1, 5))
    lost = np.flatnonzero(~found["valid_detection"])
    assert lost.tolist() == [0, 8, 9, 14, 15]
    for name in filter(xycd.is_predicted, found):
        assert not found[name][lost].any()
    assert (found["S"][lost, :, 3] == 1).all()


def test_no_features_at_all(store, tmp_path):
    pairs = [SequenceFiles(pair.annotation, ()) for pair in store.pairs]
    assert "16 rows without" in error_of(pairs, tmp_path)
    report = merge(pairs, tmp_path / "a.npz", allow_missing=True, part="detected")
    assert (report.ok, report.failed) == (0, {"not_run": 16})
    xycd.validate(tmp_path / "a.npz")
    assert "no sequences" not in error_of([], tmp_path)


def test_features_without_annotation_or_twice(store, tmp_path):
    extra = Store(tmp_path / "extra")
    pair = extra.add(FIRST, [part(FIRST, [0, 1, 2]), part(FIRST, [2, 3, 8])], annotation.mock(FIRST, 4))
    text = error_of([pair], tmp_path)
    assert "1 feature rows without annotation (frame 8 person 0)" in text
    assert "1 feature rows that occur twice (frame 2 person 0)" in text
    assert "1 feature rows" in error_of([pair], tmp_path, allow_missing=True)


def test_other_disagreements_are_named(store, tmp_path):
    swapped = SequenceFiles(store.pairs[0].annotation, store.pairs[1].features)
    assert f"belongs to {FIRST}" in error_of([swapped], tmp_path)
    assert f"twice: {FIRST}" in error_of([store.pairs[1]] * 2, tmp_path)
    assert "schema" in error_of([SequenceFiles(store.pairs[1].features[0], ())], tmp_path)

    options = {"statistics": True, "pose_channels": 6, "depth_channels": 3}
    others = {
        "different models": part(FIRST, range(4), **options),
        "features differ by": part(FIRST, range(4), pose_channels=6, depth_channels=3),
        "embeddings are": part(FIRST, range(4), **{**options, "pose_channels": 8}),
    }
    others["different models"].attrs["stage"] = "other models"
    for message, ds in others.items():
        other = Store(tmp_path / message)
        pair = other.add(FIRST, [ds], annotation.mock(FIRST, 4))
        text = error_of([store.pairs[0], pair], tmp_path)
        assert message in text
        assert str(FIRST) in text


def test_a_damaged_file_is_named(store, tmp_path):
    path = store.pairs[0].features[1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for workers in (1, 2):
        text = error_of(store.pairs, tmp_path, workers=workers)
        assert str(path) in text
        assert "--verify" in text


def test_values_that_cannot_be_read_leave_no_output(store, tmp_path):
    path = store.pairs[0].features[1]
    with xr.open_dataset(path) as ds:
        ds.load().to_netcdf(tmp_path / "checked.nc", encoding={"features": {"fletcher32": True}})
    data = bytearray((tmp_path / "checked.nc").read_bytes())
    stored = store.features[SECOND][1, 0]["features"].values.tobytes()
    place = bytes(data).index(stored)
    data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(MergeError, match="must be readable"):
        merge(store.pairs, tmp_path / "out" / "a.npz")
    assert list((tmp_path / "out").iterdir()) == []


def test_sequences_without_ground_truth(tmp_path):
    store = Store(tmp_path / "store")
    store.add(FIRST, [part(FIRST, range(4))], annotation.mock(FIRST, 4, ground_truth=False))
    merge(store.pairs, tmp_path / "a.npz")
    xycd.validate(tmp_path / "a.npz")
    assert not {"center", "scale", "S", "part", "casp_descriptors"} & set(load(tmp_path / "a.npz"))
    merge(store.pairs, tmp_path / "b.npz", part="detected")
    found = load(tmp_path / "b.npz")
    assert found["part"].shape == (4, 17, 3)
    assert not found["valid_annotation"].any()
    store.add(SECOND, [part(SECOND, range(2))], annotation.mock(SECOND, 2))
    merge(store.pairs, tmp_path / "c.npz")
    found = load(tmp_path / "c.npz")
    assert not found["S"][:4].any()
    assert (found["S"][4:, :, 3] == 1).all()


def test_an_output_that_cannot_be_written(store, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError):
        merge(store.pairs, tmp_path / "file" / "a.npz")


def test_long_files_are_read_in_parts(store, tmp_path, monkeypatch):
    merge(store.pairs, tmp_path / "a.npz")
    monkeypatch.setattr("etl.stages.sequence_rows._CHUNK_BYTES", 3000)
    merge(store.pairs, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_ctrl_c_is_for_the_driver() -> None:
    with _Pool(2) as pool:
        assert list(pool.map(signal.getsignal, [signal.SIGINT])) == [signal.SIG_IGN]
