from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etl.datasets.human36m.metadata import Metadata, find_metadata, read_metadata
from etl.demo import human36m
from etl.errors import DatasetError


class ArraysOnly(pickle.Unpickler):
    """Loads nothing but numpy arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {("numpy", n) for n in ("_reconstruct", "ndarray", "dtype", "scalar")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


@pytest.fixture(scope="module")
def real(samples: Path) -> Metadata:
    return read_metadata(samples / "h36m" / "metadata.xml")


def test_real_cameras_are_those_of_mmpose(real: Metadata, samples: Path) -> None:
    with (samples / "h36m" / "cameras.pkl").open("rb") as file:
        expected = ArraysOnly(file).load()
    assert len(expected) == 44
    assert set(expected) == set(real.cameras)
    for key, values in expected.items():
        camera = real.cameras[key]
        to_world = np.array(camera.rotation).T
        assert np.abs(to_world - values["R"]).max() < 1e-9
        assert np.abs(-to_world @ np.array(camera.translation) - values["T"][:, 0]).max() < 1e-9
        assert np.abs(np.array(camera.focal) - values["f"][:, 0]).max() < 1e-9
        assert np.abs(np.array(camera.center) - values["c"][:, 0]).max() < 1e-9
        assert np.abs(np.array(camera.radial) - values["k"][:, 0]).max() < 1e-9
        assert np.abs(np.array(camera.tangential) - values["p"][:, 0]).max() < 1e-9
        assert camera.distortion == "h36m"


def test_real_image_sizes_are_the_subjects_own(real: Metadata) -> None:
    sizes = {key: (camera.width, camera.height) for key, camera in real.cameras.items()}
    assert sizes["S7", "55011271"] == (1000, 1002)
    assert sizes["S1", "55011271"] == (1000, 1000)
    assert sizes["S1", "54138969"] == (1000, 1002)
    tall = {subject for (subject, camera), size in sizes.items() if camera == "58860488" and size == (1000, 1002)}
    assert tall == {"S4", "S7", "S10"}


def test_real_names_follow_the_table(real: Metadata) -> None:
    assert real.names["S1", "Eating", 1] == "Eating 2"
    assert real.names["S5", "Discussion", 2] == "Discussion 3"
    assert real.names["S7", "Phoning", 1] == "Phoning 2"
    assert real.names["S9", "SittingDown", 1] == "SittingDown"
    assert real.names["S1", "Photo", 1] == "TakingPhoto 1"
    assert real.names["S1", "WalkDog", 2] == "WalkingDog"
    assert len(real.names) == 15 * 2 * 11
    assert not any("_ALL" in name for name in real.names.values())
    assert list(real.actions.values()) == list(range(2, 17))
    assert real.canonical("TakingPhoto") == "Photo"
    assert real.canonical("WalkingTogether") == "WalkTogether"
    assert real.camera_names == ("54138969", "55011271", "58860488", "60457274")


def test_real_frame_counts_sum_to_the_known_total(real: Metadata) -> None:
    train = [n for (subject, *_), n in real.frames.items() if subject in ("S1", "S5", "S6", "S7", "S8")]
    assert sum(map(sum, train)) == 1_561_382
    assert real.frames["S1", "Directions", 1] == (1384, 1387, 1387, 1384)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    frames = {("S1", human36m.ACTIONS[1], 1): {camera: 7 + i for i, camera in enumerate(human36m.CAMERAS)}}
    human36m.write_metadata(tmp_path / "metadata.xml", frames)
    return tmp_path / "metadata.xml"


def test_made_cameras_are_the_makers(made: Path) -> None:
    metadata = read_metadata(made)
    for (subject, name), camera in metadata.cameras.items():
        truth = human36m.camera_of(subject, name)
        assert np.allclose(camera.rotation, truth.rotation, rtol=0, atol=1e-12)
        assert np.allclose(camera.translation, truth.translation, rtol=0, atol=1e-12)
        assert (camera.width, camera.height) == (truth.width, truth.height)
        assert (camera.focal, camera.center, camera.radial) == (truth.focal, truth.center, truth.radial)
    assert metadata.frames["S1", "Directions", 1] == (7, 8, 9, 10)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;">]>
<a><mapping>&d;</mapping></a>"""


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (None, BOMB, "EntitiesForbidden"),
        (None, "", "0 bytes"),
        (None, "<a/>", "0 rows"),
        (None, "<a><mapping>", "ParseError"),
        ("<td>S11</td>", "<td>S12</td>", "S12"),
        ("<item>54138969</item>", "<item>55011271</item>", "different items"),
        ("[7 8 9 10 34]", "[7 8]", r"\[7 8\]"),
        ("[7 8 9 10 34]", "many", "many"),
        ("<td>Directions 2</td>", "<td>../../etc/passwd</td>", "passwd"),
        ("<w0>[", "<w0>[nan ", "301 numbers, 1 of them"),
        ("<w0>[", "<w0>[one ", "could not convert"),
    ],
)
def test_malformed_metadata_is_refused_by_name(made: Path, old: str | None, new: str, found: str) -> None:
    text = made.read_text()
    assert old is None or old in text
    made.write_text(new if old is None else text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=found) as caught:
        read_metadata(made)
    assert str(made) in str(caught.value)


def test_truncated_metadata_is_refused(made: Path) -> None:
    made.write_text(made.read_text()[:-2000])
    with pytest.raises(DatasetError, match="readable XML"):
        read_metadata(made)


def test_metadata_is_found_at_its_usual_places(tmp_path: Path) -> None:
    root = tmp_path / "extracted"
    (root / "Release-v1.2").mkdir(parents=True)
    (root / "Metadata.xml.bak").write_text("")
    with pytest.raises(DatasetError, match=r"Metadata\.xml\.bak"):
        find_metadata(root)
    for place in (tmp_path / "metadata.xml", root / "Release-v1.2" / "metadata.xml", root / "metadata.xml"):
        place.write_text("<a/>")
        assert find_metadata(root) == place
