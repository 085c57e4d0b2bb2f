import re

import h5py
import numpy as np
import pytest
import scipy.io

from etl.datasets.mpi_inf_3dhp.reader import MpiInf3DHP
from etl.errors import DatasetError
from tests.etl.datasets.mpi_inf_3dhp_raw import TRAIN_K, by_key, write_test, write_train
from tests.etl.datasets.people import pinhole


def spoil_mat(path, **changes):
    values = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")} | changes
    scipy.io.savemat(path, {k: v for k, v in values.items() if v is not None})


def cells(array, count=14):
    found = np.empty((count, 1), object)
    found[:, 0] = [array] * count
    return found


def hole(shape, *index):
    array = np.zeros(shape)
    array[index] = np.nan
    return array


TRAIN_FAULTS = {
    "missing": ({"annot3": None}, "have 'annot3'", "only annot2"),
    "no cells": ({"annot2": np.zeros((8, 56))}, "cell of 14 arrays", "float64"),
    "13 cameras": ({"annot2": cells(np.zeros((8, 56)), 13)}, "cell of 14 arrays", r"\(13, 1\)"),
    "27 joints": ({"annot2": cells(np.zeros((8, 54)))}, r"'annot2\{1\}'.*shape \(F, 56\)", r"\(8, 54\)"),
    "other length": ({"annot3": cells(np.zeros((7, 84)))}, r"'annot3\{1\}'.*shape \(8, 84\)", r"\(7, 84\)"),
    "empty": ({"annot2": cells(np.zeros((0, 56)))}, r"shape \(F, 56\)", r"\(0"),
    "nan": ({"annot3": cells(hole((8, 84), 5, 7))}, "finite everywhere", r"\(5, 7\)"),
    "text": ({"annot2": cells("none")}, "shape|dtype", "U|1,"),
    "cameras from 1": ({"cameras": np.arange(1, 15)}, "'cameras'.* must be 0 to 13", r"\[1, 2, .*14\]"),
    "camera missing": ({"cameras": np.arange(13)}, "'cameras'.* must be 0 to 13", "12]"),
    "frame missing": ({"frames": np.array([[0, 1, 2, 4, 5, 6, 7, 8]]).T}, "each frame", "4 at row 3.*5 of 8"),
    "frames from 3": ({"frames": np.arange(3, 11)}, "each frame, from 0 or 1", "3 at row 0"),
    "frames by camera": ({"frames": cells(np.arange(8)[::-1])}, "each frame", "7 at row 0"),
}


@pytest.mark.parametrize("name", TRAIN_FAULTS)
def test_malformed_training_annotations(tmp_path, name):
    changes, rule, found = TRAIN_FAULTS[name]
    write_train(tmp_path)
    path = tmp_path / "S1" / "Seq1" / "annot.mat"
    spoil_mat(path, **changes)
    refused(tmp_path, path, rule, found)


@pytest.mark.parametrize("frames", [None, np.arange(8)[:, None], np.arange(1, 9)[None], cells(np.arange(1, 9.0))])
def test_frames_count_from_0_or_1(tmp_path, frames):
    write_train(tmp_path)
    spoil_mat(tmp_path / "S1" / "Seq1" / "annot.mat", frames=frames, cameras=None)
    reader = MpiInf3DHP(tmp_path)
    assert reader.annotate(reader.sequences()[0]).sizes["frame"] == 8


def refused(root, path, rule, found):
    reader = MpiInf3DHP(root)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)


@pytest.mark.parametrize(
    ("content", "rule", "found"),
    [
        (lambda data: data[: len(data) // 2], "readable MATLAB file", "Error"),
        (lambda data: b"", "at least 1 bytes", "0 bytes"),
        (lambda data: b"x" * 500, "readable MATLAB file", "Error"),
        (None, "must be a file", "no such file"),
    ],
)
def test_damaged_training_annotations(tmp_path, content, rule, found):
    write_train(tmp_path)
    path = tmp_path / "S1" / "Seq1" / "annot.mat"
    data = path.read_bytes()
    path.unlink()
    if content:
        path.write_bytes(content(data))
    refused(tmp_path, path, rule, found)


def test_training_calibration_without_the_camera(tmp_path):
    write_train(tmp_path)
    path = tmp_path / "S1" / "Seq1" / "camera.calibration"
    path.write_text("\n".join(path.read_text().splitlines()[: 1 + 7 * 4]) + "\n")
    reader = MpiInf3DHP(tmp_path)
    with pytest.raises(DatasetError, match="have camera 8") as caught:
        reader.annotate(by_key(reader)["S1", "Seq1", "8"])
    assert caught.value.found == "only 0, 1, 2, 3"


LEGS = [*range(18), *range(23, 28), *range(18, 23)]
WRONG = {
    "metres": (lambda u, x: (u, x / 1000), "0.2 to 0.7 m"),
    "another camera's": (lambda u, x: (u, np.roll(x, 1, axis=0)), "project onto"),
    "height-normalised": (lambda u, x: (u, 1.0 * x + [0, 0.1, 0]), "project onto"),
    "legs exchanged": (lambda u, x: (u[:, :, LEGS], x[:, :, LEGS]), "same side"),
    "mirrored": (lambda u, x: (pinhole(TRAIN_K, x * [-1, 1, 1]), x * [-1, 1, 1]), "at the front of the bodies"),
}


@pytest.mark.parametrize("name", WRONG)
def test_geometry_that_cannot_be_is_refused_with_its_figure(tmp_path, name):
    change, rule = WRONG[name]
    write_train(tmp_path, change=change)
    refused(tmp_path, tmp_path / "S1" / "Seq1" / "annot.mat", rule, r"\d")


def spoil_hdf5(path, **changes):
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            del file[name]
            if isinstance(value, dict):
                file.create_group(name)
            elif value is not None:
                file[name] = value


TEST_FAULTS = {
    "missing": ({"valid_frame": None}, "have 'valid_frame'", "annot2"),
    "group": ({"annot3": {}}, "must be a dataset", "Group"),
    "16 joints": ({"annot2": np.zeros((8, 1, 16, 2))}, r"shape \(F, 1, 17, 2\)", r"\(8, 1, 16, 2\)"),
    "matlab's order of axes": ({"annot2": np.zeros((2, 17, 1, 8))}, r"shape \(F, 1, 17, 2\)", r"\(2, 17, 1, 8\)"),
    "other length": ({"annot3": np.zeros((7, 1, 17, 3))}, r"shape \(8, 1, 17, 3\)", r"\(7,"),
    "nan": ({"annot3": hole((8, 1, 17, 3), 2, 0, 4, 1)}, "'annot3 where valid_frame'.*finite", r"\(2, 4, 1\)"),
    "valid is 2": ({"valid_frame": np.full((8, 1), 2.0)}, "0 or 1", "2"),
    "valid is short": ({"valid_frame": np.ones((7, 1))}, r"'valid_frame'.*shape \(8,\)", r"\(7,\)"),
    "activity 9": ({"activity_annotation": np.full((8, 1), 9.0)}, "must be 0 to 7", "9"),
    "text": ({"annot2": np.full((8, 1, 17, 2), b"x")}, "dtype", "S1"),
}


@pytest.mark.parametrize("name", TEST_FAULTS)
def test_malformed_test_annotations(tmp_path, name):
    changes, rule, found = TEST_FAULTS[name]
    write_test(tmp_path, images=1)
    path = tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat"
    spoil_hdf5(path, **changes)
    refused(tmp_path, path, rule, found)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_damaged_test_annotations(tmp_path, keep):
    write_test(tmp_path, images=1)
    path = tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))] or b"MATLAB 7.3")
    refused(tmp_path, path, "readable HDF5 file", "Error")


def test_matlab_5_in_the_place_of_7_3(tmp_path):
    write_test(tmp_path, images=1)
    path = tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat"
    scipy.io.savemat(path, {"annot2": np.zeros((2, 17, 1, 8))})
    refused(tmp_path, path, "readable HDF5 file", "OSError")
