"""The whole way of the data on a miniature of each dataset, against its truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cluster
from cluster.config import ClusterConfig
from etl import pipeline
from etl.cli.app import app
from etl.demo import mpi_inf_3dhp, threedpw
from etl.demo.truth import SceneTruth, SequenceTruth, read_truth
from etl.errors import ConfigError, DatasetError
from etl.results.features import open_features
from etl.stages.blocks.skeleton import coco_to_h36m
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17, LIMB_JOINTS
from schemas.skeletons_raw import MPI_INF_3DHP_17
from schemas.xycd import validate
from tests.etl.miniatures import FRAMES, MINIATURES, configure, render

OUTPUTS = {
    "h36m": ("h36m_xycd_train.npz", "h36m_xycd_val.npz"),
    "3dpw": ("3dpw_xycd_test.npz", "3dpw_xycd_train.npz", "3dpw_xycd_validation.npz"),
    "3dhp": ("3dhp_xycd_test.npz", "3dhp_xycd_train.npz"),
    "fit3d": ("fit3d_xycd_test.npz", "fit3d_xycd_train.npz"),
}
# Rows of each split: sequences x people x frames.
ROWS = {
    "h36m": (2 * FRAMES, 2 * FRAMES),
    "3dpw": (2 * FRAMES, 2 * FRAMES, FRAMES),
    "3dhp": (2 * FRAMES, 4 * FRAMES - 1),
    "fit3d": (2 * (FRAMES + 1) // 2, 4 * (FRAMES + 1) // 2),
}


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with cluster.start(ClusterConfig(workers=1)) as running:
        yield running


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module", params=MINIATURES)
def done(request: pytest.FixtureRequest, raws: Path, workers: Any) -> tuple[str, Path, Path]:
    """Name, raw root and workspace of a dataset that has run through the whole pipeline."""
    name = request.param
    root, work = render(name, raws), raws / f"work-{name}"
    (summary,) = pipeline.run(configure(name, root, work), cluster=workers)
    assert not summary.failed
    assert tuple(path.name for path in summary.outputs) == OUTPUTS[name]
    return name, root, work


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def keys_of(name: str, table: dict[str, np.ndarray]) -> list[SequenceKey]:
    columns = (table[n].tolist() for n in ("subject", "action", "subaction", "camera"))
    return [SequenceKey(name, *values) for values in zip(*columns, strict=True)]


def test_the_truth_comes_back(done: tuple[str, Path, Path]) -> None:
    name, root, work = done
    truth = SceneTruth(root)
    seen, compared = set(), 0
    for output, rows in zip(OUTPUTS[name], ROWS[name], strict=True):
        validate(work / "training" / output)
        table = read(work / "training" / output)
        assert len(table["frame"]) == rows
        for i, key in enumerate(keys_of(name, table)):
            number, person = int(table["frame"][i]), int(table["person"][i])
            seen.add((key, number, person))
            scene, usable = truth.truth(key), table["valid_annotation"][i]
            who: Any = scene.people[person]
            # 3DPW's annotated people are found by their joints, so without them nobody is.
            assert table["valid_detection"][i] == (usable or name != "3dpw" or number == threedpw.UNSEEN)
            known = table["part"][i, :, 2] > 0
            assert known.all() == (np.abs(table["S"][i]).max() > 0)
            if known.all():
                # SMPL has no joint at the neck's base.
                joints = [j for j in range(17) if name != "3dpw" or j != H36M_17.index("neck_base")]
                assert np.abs(table["part"][i, :, :2] - who.h36m_2d[number])[joints].max() < 0.05
                assert np.abs(table["S"][i, :, :3] - who.h36m_3d[number])[joints].max() < 1e-5
            else:
                assert not usable
            if not table["valid_detection"][i]:
                continue
            expected, _ = coco_to_h36m(who.coco_2d[number], np.ones(17))
            assert np.abs(table["predicted_keypoints"][i] - expected).max() < 0.5
            x, y = np.round(expected).astype(int).T
            shown = who.converted_visible[number]
            surface = scene.depth(number)[np.where(shown, y, 0), np.where(shown, x, 0)]
            assert np.abs(table["predicted_da_depth"][i] - surface)[shown].max(initial=0) < 0.01
            # The surface is this person's: within the body's own thickness before the joint.
            behind = (who.h36m_3d[number, :, 2] - table["predicted_da_depth"][i])[list(LIMB_JOINTS)]
            assert np.abs(behind)[shown[list(LIMB_JOINTS)]].max(initial=0) < 0.3
            compared += int(shown.sum())
    assert len(seen) == sum(ROWS[name])
    assert compared > 6 * len(seen)


def test_both_kinds_of_files_say_what_their_joints_are(done: tuple[str, Path, Path]) -> None:
    name, _, work = done
    for output in OUTPUTS[name]:
        xycd, mmpose = (
            json.loads(str(read(work / "training" / file)["metadata"]))
            for file in (output, output.replace("_xycd", ""))
        )
        assert xycd["joints"] == list(H36M_17.joints)
        assert xycd["joint_source"] == mmpose["joint_source"]
        assert len(xycd["joint_source"]) == 1
        assert xycd["mmpose_order"] == mmpose["mmpose_order"]
        assert mmpose["mmpose_order"].index(0) == mmpose["joints"].index("pelvis") == (14 if name == "3dhp" else 0)


def test_what_a_release_calls_unusable_is_marked_and_kept(done: tuple[str, Path, Path]) -> None:
    name, _, work = done
    for output in OUTPUTS[name]:
        table = read(work / "training" / output)
        bad = np.zeros(len(table["frame"]), bool)
        if name == "3dpw":
            last = table["person"] == table["person"].max()
            bad = (table["frame"] == threedpw.BAD_POSE) | (last & (table["frame"] == threedpw.UNSEEN))
            assert not table["valid_detection"][table["frame"] == threedpw.BAD_POSE].any()
        elif output == "3dhp_xycd_test.npz":
            bad = ~mpi_inf_3dhp.valid_frames(FRAMES)[table["frame"]]
            assert table["valid_detection"].all()
        assert (table["valid_annotation"] == ~bad).all()


@pytest.mark.parametrize("done", ["fit3d"], indirect=True)
def test_sequences_without_ground_truth_have_features(done: tuple[str, Path, Path]) -> None:
    name, root, work = done
    ds = open_features(work, name).sel(subject="s02").load()
    (key,) = (key for key in read_truth(root) if key.subject == "s02")
    truth = SequenceTruth.read(read_truth(root)[key])
    # One frame in two; the test subjects' videos have no poses, so nothing cuts them short.
    assert ds["frame_number"].values.tolist() == list(range(0, len(truth), 2))
    found = ds["features"].sel(feature=["x", "y"]).values
    for row, number in enumerate(ds["frame_number"].values):
        expected, _ = coco_to_h36m(truth.coco_2d[number], np.ones(17))
        assert np.abs(found[row] - expected).max() < 0.5


@pytest.mark.parametrize("done", ["3dpw"], indirect=True)
def test_people_who_hide_each_other_are_told_apart(done: tuple[str, Path, Path]) -> None:
    name, root, work = done
    table = read(work / "training" / "3dpw_xycd_test.npz")
    (key,) = set(keys_of(name, table))
    truth = SequenceTruth.read(read_truth(root)[key])
    assert len(truth.people) == 2
    hidden = 0
    for number in range(len(truth)):
        masks = [truth.mask(number, person) for person in (0, 1)]
        assert not (masks[0] & masks[1]).any()
        assert (truth.mask(number) == masks[0] | masks[1]).all()
        boxes = [np.concatenate([p.coco_2d[number].min(0), p.coco_2d[number].max(0)]) for p in truth.people]
        assert min(boxes[0][2], boxes[1][2]) > max(boxes[0][0], boxes[1][0])  # they overlap in the picture
        # Who is nearer is before who is farther: joints of the second lie under pixels of the first.
        x, y = np.round(truth.people[1].coco_2d[number]).astype(int).T
        covered = masks[0][y, x]
        hidden += int(covered.sum())
        assert not truth.people[1].coco_visible[number][covered].any()
        nearer = truth.depth(number)[y, x][covered] < truth.people[1].coco_3d[number, covered, 2]
        assert nearer.all()
    assert hidden > 0


def test_annotations_for_mmpose_are_in_its_conventions(done: tuple[str, Path, Path]) -> None:
    name, root, work = done
    truths = {str(key): SequenceTruth.read(path) for key, path in read_truth(root).items()}
    for output in OUTPUTS[name]:
        split = output.removesuffix(".npz").rpartition("_")[2]
        table = read(work / "training" / output)
        exported = read(work / "training" / f"{name}_{split}.npz")
        usable = table["valid_annotation"]
        assert exported["imgname"].tolist() == table["imgname"][usable].tolist()
        facts = json.loads(str(exported["metadata"]))
        assert facts["rows"] == usable.sum()
        assert facts["left_out"] == (~usable).sum()
        own_order = name == "3dhp"
        assert facts["skeleton"] == ("mpi_inf_3dhp17" if own_order else "h36m17")
        joints = MPI_INF_3DHP_17 if own_order else H36M_17
        assert tuple(facts["joints"]) == joints.joints
        places = [joints.index(n) for n in ("pelvis", "right_knee", "left_wrist", "left_shoulder")]
        mine = [H36M_17.index(n) for n in ("pelvis", "right_knee", "left_wrist", "left_shoulder")]
        assert places[0] == (14 if own_order else 0)
        keys = [str(key) for key in keys_of(name, table)]
        for row, i in enumerate(np.flatnonzero(usable)):
            who = truths[keys[i]].people[table["person"][i]]
            number = table["frame"][i]
            assert np.abs(exported["S"][row, places, :3] - who.h36m_3d[number, mine]).max() < 1e-5
            assert np.abs(exported["part"][row, places, :2] - who.h36m_2d[number, mine]).max() < 0.05
        low, high = exported["part"][..., :2].min(1), exported["part"][..., :2].max(1)
        np.testing.assert_allclose(exported["center"], (low + high) / 2)
        np.testing.assert_allclose(exported["scale"], 1.2 * (high - low).max(1) / 200)
        cameras = json.loads((work / "training" / f"{name}_cameras.json").read_text())["cameras"]
        assert len(cameras) == len(truths)


@pytest.mark.parametrize("done", ["3dpw"], indirect=True)
def test_detecting_in_annotated_boxes_gives_the_same_people(
    done: tuple[str, Path, Path], tmp_path: Path, workers: Any
) -> None:
    name, root, work = done
    config = configure(name, root, tmp_path, estimate={"association": "ground_truth_box"})
    (summary,) = pipeline.run(config, cluster=workers)
    assert summary.rows["model_error"] == 0  # where a person has no box
    for output in OUTPUTS[name]:
        if "test" in output:  # two people behind each other, for whom 150 px around are all of so small an image
            continue
        mine, theirs = read(work / "training" / output), read(tmp_path / "training" / output)
        for key in ("valid_detection", "person", "frame", "predicted_keypoints", "predicted_da_depth"):
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_annotate_alone_writes_what_mmpose_reads_and_once(raws: Path, tmp_path: Path) -> None:
    root = render("fit3d", raws)
    config = configure("fit3d", root, tmp_path)
    (summary,) = pipeline.run(config, stages=("annotate",))
    names = ["fit3d_cameras.json", "fit3d_cameras.pkl", "fit3d_test.npz", "fit3d_train.npz"]
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "training").iterdir()}
    assert sorted(written) == names
    assert [path.name for path in summary.outputs] == names[2:]
    # Test subjects without ground truth have cameras.
    cameras = json.loads((tmp_path / "training" / names[0]).read_text())["cameras"]
    assert {camera["key"][0] for camera in cameras} == {"s02", "s03", "s04", "s10"}

    def now() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "training").iterdir()}

    pipeline.run(config, stages=("annotate",))
    assert now() == written
    (tmp_path / "training" / "fit3d_test.npz").unlink()
    pipeline.run(config, stages=("annotate",))
    assert sorted(now()) == names
    assert now()["fit3d_train.npz"] == written["fit3d_train.npz"]
    # Another rate gives other rows.
    pipeline.run(configure("fit3d", root, tmp_path, datasets={"fit3d": {"hz": 50}}), stages=("annotate",))
    assert len(read(tmp_path / "training" / "fit3d_train.npz")["imgname"]) == 4 * FRAMES


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("h36m", "S1/S1_Walking_1.54138969/S1_Walking_1.54138969_000001.jpg", "S1/S1_Walking_1.55011271"),
        ("3dhp", "S1_Seq1_Cam0_000001.jpg", "S2_Seq1_Cam4"),
        ("3dpw", "courtyard_meeting_00/image_00000.jpg", "courtyard_meeting_00"),
        ("fit3d", "s03_50591643_walk_the_box/s03_50591643_walk_the_box_000001.jpg", "s04_58860488_walk_the_box"),
    ],
)
def test_images_are_named_as_mmpose_names_them(raws: Path, name: str, first: str, last: str) -> None:
    names = read(raws / f"work-{name}" / "training" / f"{name}_train.npz")["imgname"]
    assert names[0] == first
    assert names[-1].startswith(last)


def test_fit3d_s_splits_are_chosen_on_the_command_line(raws: Path, tmp_path: Path) -> None:
    root = str(render("fit3d", raws))

    def annotate(*options: str) -> dict[str, set[str]]:
        arguments = ["annotate", "fit3d", "--root", root, "--workspace", str(tmp_path), *options]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        names = {split: read(tmp_path / "training" / f"fit3d_{split}.npz")["imgname"] for split in ("train", "test")}
        return {split: {name.partition("_")[0] for name in of_split.tolist()} for split, of_split in names.items()}

    assert annotate() == {"train": {"s03", "s04"}, "test": {"s10"}}
    assert annotate("--train", "s03,s10", "--test", "s04") == {"train": {"s03", "s10"}, "test": {"s04"}}
    with pytest.raises(DatasetError, match="s05"):
        annotate("--train", "s03,s05", "--test", "s04")
    with pytest.raises(DatasetError, match="one split"):
        annotate("--train", "s03", "--test", "s03")


def test_only_fit3d_s_splits_can_be_chosen(raws: Path) -> None:
    with pytest.raises(ConfigError, match="fit3d"):
        CliRunner().invoke(app, ["annotate", "h36m", "--root", str(raws), "--train", "S1"], catch_exceptions=False)
