"""The choice of runtimes: by the workers' GPUs and what is installed, the same for planning, running and merging."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etl.config import Config, load
from etl.errors import ConfigError
from etl.execution import steps
from etl.execution.job import DatasetJob
from etl.execution.plan import plan
from etl.models import registry
from etl.models.auglift import runtimes as auglift_runtimes
from etl.models.auglift.settings import parse
from etl.results.features import open_features
from etl.stages.progress import Silent
from etl.store.partition import digest
from etl.store.workspace import Current, Workspace
from tests.etl import stores

OPTIONS = {"weights": "random", "detector": "rtmdet-nano-person", "pose": "rtmpose-t"}
PARTS = ("detector", "pose", "depth")
OPENVINO_NOTE = (
    "features of this workspace were made with OpenVINO, which xycd no longer uses: "
    "new ones are made with onnxruntime; the old ones stay readable"
)


class Notes(Silent):
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def _all_installed_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    see_gpu(monkeypatch, False)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else object())


def see_gpu(monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    monkeypatch.setattr(auglift_runtimes, "sees_gpu", lambda: seen)


@pytest.fixture
def configure(tmp_path: Path):
    (tmp_path / "raw" / "clip").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "raw" / "clip" / "0.png")

    def made(options: dict[str, Any] | None = None, **changes: Any) -> Config:
        values: dict[str, Any] = {
            "workspace": str(tmp_path / "work"),
            "datasets": {"folder": {"root": str(tmp_path / "raw")}},
            "models": {"set": "auglift", "options": {**OPTIONS, **(options or {})}},
        }
        return load(None, values, changes)

    return made


def chosen(config: Config, *, compute: bool = True) -> set[str]:
    """The runtimes of all networks."""
    found, _ = registry.choose_runtimes(config, compute=compute)
    return {found.models.options[f"{part}_runtime"] for part in PARTS}


def make_features(config: Config, **runtimes: str) -> Path:
    """Leave what a run with these runtimes leaves; the folder of its features."""
    named = {f"{part}_runtime": runtime for part, runtime in runtimes.items() if runtime != "openvino"}
    settings = config.models.model_copy(update={"options": {**config.models.options, **named}})
    job = DatasetJob("folder", config.model_copy(update={"models": settings}))
    description = job.stage
    description["models"]["runtimes"].update(runtimes)
    with Workspace(config.workspace).writing():
        pass
    job.store.create(description)
    job.workspace.set_current("folder", Current(job.annotations_key, job.store.folder.name))
    return job.store.folder


def test_a_cpu_takes_onnxruntime_where_it_is_installed_else_torch(configure, monkeypatch):
    assert chosen(configure()) == {"onnxruntime"}
    for missing in ("onnxruntime", "onnx"):
        without(monkeypatch, missing)
        assert chosen(configure()) == {"torch"}


def test_a_gpu_takes_torch(configure, monkeypatch):
    see_gpu(monkeypatch, True)
    assert chosen(configure()) == {"torch"}
    assert chosen(configure({"device": "cpu"})) == {"onnxruntime"}
    assert chosen(configure(cluster={"local": {"gpus": "none"}})) == {"onnxruntime"}


def test_on_slurm_the_jobs_decide_and_not_the_login_node(configure, monkeypatch):
    by_directive = {"gres": "none", "directives": ["--gpus-per-node=2"]}
    for slurm in ({}, by_directive):
        assert chosen(configure(cluster={"kind": "slurm", "slurm": slurm})) == {"torch"}
    see_gpu(monkeypatch, True)
    assert chosen(configure(cluster={"kind": "slurm", "slurm": {"gres": "none"}})) == {"onnxruntime"}


def test_an_option_overrides_the_rule(configure, monkeypatch):
    found, _ = registry.choose_runtimes(configure({"pose_runtime": "torch"}), compute=True)
    assert [found.models.options[f"{part}_runtime"] for part in PARTS] == ["onnxruntime", "torch", "onnxruntime"]
    see_gpu(monkeypatch, True)
    assert chosen(configure({f"{part}_runtime": "onnxruntime" for part in PARTS})) == {"onnxruntime"}


def test_cuda_by_name_and_half_precision_are_torch(configure, monkeypatch):
    monkeypatch.setattr(auglift_runtimes, "check_device", lambda *_: None)
    for change in ({"device": "cuda"}, {"precision": "bf16"}):
        assert chosen(configure(change)) == {"torch"}


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_features_of_the_same_runtimes_are_continued(configure, runtime):
    config = configure({f"{part}_runtime": runtime for part in PARTS})
    folder = make_features(config, **dict.fromkeys(PARTS, runtime))
    found, notes = registry.choose_runtimes(config, compute=True)
    assert notes == []
    assert DatasetJob("folder", found).store.folder == folder


def test_features_of_openvino_are_not_continued_and_the_run_says_why(configure):
    config = configure()
    make_features(config, detector="torch", pose="openvino", depth="openvino")
    found, notes = registry.choose_runtimes(config, compute=True)
    assert chosen(config) == {"onnxruntime"}
    assert notes == [OPENVINO_NOTE]
    assert not DatasetJob("folder", found).store.folder.exists()
    assert OPENVINO_NOTE in plan(config)


def test_features_of_openvino_stay_queryable_while_new_ones_are_made(tmp_path):
    root = tmp_path / "work"
    stores.estimate(root, stores.annotate(root, stores.keys()))
    networks = {"detector": "rtmdet-nano-person", "pose": "rtmpose-t", "depth": parse({}).depth}
    described = {"models": {**networks, "runtimes": dict.fromkeys(PARTS, "openvino")}}
    (stores.store_of(root).folder / "stage.json").write_text(json.dumps(described))
    before = open_features(root, "h36m").load()
    values = {
        "workspace": str(root),
        "datasets": {"h36m": {"root": str(tmp_path)}},
        "models": {"set": "auglift", "options": OPTIONS},
    }
    notes = Notes()
    steps.choose_runtimes(load(None, values), ("estimate",), notes)
    assert notes.texts == [OPENVINO_NOTE]
    assert before.sizes["frame"] > 0
    assert open_features(root, "h36m").load().identical(before)


def test_features_of_other_runtimes_are_named_with_the_options_that_continue_them(configure, monkeypatch):
    config = configure()
    folder = make_features(config, **dict.fromkeys(PARTS, "onnxruntime"))
    see_gpu(monkeypatch, True)
    _, (note,) = registry.choose_runtimes(config, compute=True)
    assert 'pose_runtime = "onnxruntime"' in note
    found, _ = registry.choose_runtimes(configure({f"{part}_runtime": "onnxruntime" for part in PARTS}), compute=True)
    assert DatasetJob("folder", found).store.folder == folder


def test_features_of_other_networks_are_not_mentioned(configure):
    make_features(configure(), **dict.fromkeys(PARTS, "openvino"))
    assert registry.choose_runtimes(configure({"pose": "rtmpose-s"}), compute=True)[1] == []


def test_finished_features_are_merged_anywhere(configure, monkeypatch):
    """On a machine without the GPU, the packages or the processor that made them, and without importing torch."""
    folder = make_features(configure(), **dict.fromkeys(PARTS, "torch"))

    def ask() -> bool:
        raise AssertionError("no look at this machine")

    without(monkeypatch, "torch", "mmpose", "onnx", "onnxruntime")
    monkeypatch.setattr(auglift_runtimes, "sees_gpu", ask)
    found, notes = registry.choose_runtimes(configure(), compute=False)
    assert notes == []
    assert DatasetJob("folder", found).store.folder == folder


def test_half_precision_is_refused_where_the_processor_lacks_it(configure, monkeypatch):
    def refuse(settings: Any, gpu: Any) -> None:
        if settings.precision != "fp32" and not gpu():
            raise ConfigError("bf16 needs it.", "none", "fp32.")

    monkeypatch.setattr(auglift_runtimes, "check_device", refuse)
    config = configure({"precision": "bf16"})
    with pytest.raises(ConfigError, match="bf16"):
        registry.choose_runtimes(config, compute=True)
    registry.choose_runtimes(config, compute=False)
    see_gpu(monkeypatch, True)
    registry.choose_runtimes(config, compute=True)


def test_a_login_node_needs_neither_the_gpu_nor_the_packages_of_its_jobs(configure, monkeypatch):
    """The batch jobs have them, and say so where they don't."""
    without(monkeypatch, "mmpose")
    image = {"kind": "slurm", "slurm": {"python": "apptainer exec a.sif python"}}
    config = configure({"precision": "bf16", "device": "cuda"}, cluster=image)
    assert chosen(config) == {"torch"}
    with pytest.raises(ConfigError, match=r"no mmpose.*make openmmlab"):
        registry.choose_runtimes(configure(cluster={"kind": "slurm"}), compute=True)


def test_without_a_driver_torch_is_not_asked_for_gpus(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    monkeypatch.setattr(auglift_runtimes, "_has_driver", lambda: False)
    assert not auglift_runtimes.sees_gpu()
    monkeypatch.setattr(auglift_runtimes, "_has_driver", lambda: True)
    with pytest.raises(ImportError):
        auglift_runtimes.sees_gpu()


def test_other_sets_have_no_choice(configure):
    for name in ("embedded", "my.module:build"):
        config = configure(models={"set": name, "options": {}})
        assert registry.choose_runtimes(config, compute=True) == (config, [])


def test_what_is_asked_for_by_name_is_checked_before_anything_runs(monkeypatch):
    registry.check("auglift", **OPTIONS, pose_runtime="onnxruntime")
    for option in ({"precision": "bf16"}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="pose_runtime = 'onnxruntime' computes in fp32 on the CPU"):
            registry.check("auglift", **OPTIONS, pose_runtime="onnxruntime", **option)
    without(monkeypatch, "onnxruntime")
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        registry.check("auglift", **OPTIONS, pose_runtime="onnxruntime")
    with pytest.raises(ConfigError, match=r"pose_runtime.*'auto', 'torch' or 'onnxruntime'"):
        registry.check("auglift", **OPTIONS, pose_runtime="openvino")


@pytest.mark.parametrize(("runtime", "key"), [("torch", "d0ca86403c8a"), ("onnxruntime", "75bd67350185")])
def test_stage_keys_are_those_of_earlier_versions(runtime, key):
    options = {**OPTIONS, **{f"{part}_runtime": runtime for part in PARTS}}
    described = registry.describe("auglift", **options)
    assert described is not None
    assert digest(described.identity, length=12) == key
