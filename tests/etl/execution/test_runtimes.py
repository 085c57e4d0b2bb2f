"""The workspace's choice of runtimes, with a set whose networks cost what the test says."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import ClusterConfig
from etl.config import Config, load
from etl.errors import ConfigError, WorkspaceError
from etl.execution import runtimes
from etl.execution.runtimes import FILE, Record, resolve
from etl.models import registry
from etl.models.auglift import runtimes as auglift_runtimes
from etl.stages.progress import Silent

OPTIONS = {"weights": "random", "detector": "rtmdet-nano-person", "pose": "rtmpose-t", "depth_runtime": "torch"}
DETECTOR, POSE = "rtmdet-nano-person random 0", "rtmpose-t random 0"


class Machine:
    """As `etl.models.auglift.runtimes`, on a machine of given speeds; counts what is measured."""

    def __init__(self, gpu: bool = False, bf16: bool = True, **seconds: float) -> None:
        self.seconds = seconds or {"torch": 3.0, "onnxruntime": 1.0, "openvino": 2.0}
        self.gpu, self.bf16 = gpu, bf16
        self.measured: list[tuple[str, int, int]] = []
        self.asked: list[str] = []
        self.parse = auglift_runtimes.parse
        self.undecided, self.decided = auglift_runtimes.undecided, auglift_runtimes.decided

    def on_gpu(self, options: Any) -> bool:
        self.asked.append("gpu")
        return self.gpu

    def check_packages(self) -> None:
        self.asked.append("packages")

    def check_here(self, options: Any, gpu: Callable[[], bool]) -> None:
        if self.parse(options).precision != "fp32" and not self.bf16 and not gpu():
            raise ConfigError("bf16 needs it.", "none", "fp32.")

    def measure(self, options: Any, part: str, cache: Path | None, *, threads: int, frames: int) -> dict[str, float]:
        self.measured.append((part, threads, frames))
        return dict(self.seconds)


class Notes(Silent):
    """Keeps what a user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def _all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.fixture
def configure(tmp_path: Path):
    def made(**changes: Any) -> Config:
        values: dict[str, Any] = {"workspace": str(tmp_path / "w"), "models": {"set": "auglift", "options": OPTIONS}}
        (tmp_path / "w").mkdir(exist_ok=True)
        return load(None, values, changes)

    return made


def test_a_choice_is_measured_once_and_recorded(configure):
    machine, notes = Machine(), Notes()
    config = configure(cluster={"threads_per_worker": 1}, estimate={"batch": 7})
    found, pending = resolve(config, measure=True, report=notes, models=machine)
    assert pending == []
    assert machine.measured == [("detector", 1, 7), ("pose", 1, 7)], "depth has its runtime by name"
    wanted = {"detector_runtime": "onnxruntime", "pose_runtime": "onnxruntime", "depth_runtime": "torch"}
    assert found.models.options == OPTIONS | wanted
    assert notes.texts[0] == (
        "rtmdet-nano-person runs on onnxruntime (a picture: onnxruntime 1,000 ms, openvino 2,000 ms, torch 3,000 ms)"
    )
    recorded = Record.load(config.workspace).networks
    assert recorded.keys() == {DETECTOR, POSE}
    assert recorded[POSE].seconds == machine.seconds
    # The same machine again, and one on which something else is faster.
    other = Machine(torch=1.0, onnxruntime=5.0)
    for again in (machine, other):
        assert resolve(config, measure=True, models=again)[0] == found
    assert len(machine.measured) == 2
    assert other.measured == []


def test_other_weights_are_another_network(configure):
    resolve(configure(), measure=True, models=Machine())
    machine = Machine(torch=1.0, openvino=0.5)
    changed = configure(models={"options": {**OPTIONS, "pose": "rtmpose-s"}})
    found, _ = resolve(changed, measure=True, models=machine)
    assert [part for part, *_ in machine.measured] == ["pose"]
    assert found.models.options["detector_runtime"] == "onnxruntime"
    assert found.models.options["pose_runtime"] == "openvino"
    assert len(Record.load(changed.workspace).networks) == 3


def test_a_plan_measures_and_writes_nothing(configure):
    config, machine = configure(), Machine()
    assert resolve(config, measure=False, models=machine) == (config, ["rtmdet-nano-person", "rtmpose-t"])
    assert machine.measured == []
    assert not (config.workspace / FILE).exists()
    found, _ = resolve(config, measure=True, models=machine)
    assert resolve(config, measure=False, models=machine) == (found, [])


@pytest.mark.parametrize(
    "content",
    [b"", b'{"networks": {', b'{"networks": {"a": 3}}', b'{"networks": {"a": {"runtime": "torch"}}}', b'{"other": 1}'],
)
def test_a_damaged_record_is_an_error_and_stays(configure, content):
    config, machine = configure(), Machine()
    (config.workspace / FILE).write_bytes(content)
    for measure in (True, False):
        with pytest.raises(WorkspaceError, match=r"record of runtimes.*runtimes\.json.*Delete it"):
            resolve(config, measure=measure, models=machine)
    assert (config.workspace / FILE).read_bytes() == content
    assert machine.measured == []


def test_a_run_that_is_stopped_keeps_what_it_has_measured(configure):
    config, machine = configure(), Machine()
    measure = machine.measure

    def stopped(options: Any, part: str, *args: Any, **sizes: int) -> dict[str, float]:
        if part == "pose":
            raise KeyboardInterrupt
        return measure(options, part, *args, **sizes)

    machine.measure = stopped
    with pytest.raises(KeyboardInterrupt):
        resolve(config, measure=True, models=machine)
    assert Record.load(config.workspace).networks.keys() == {DETECTOR}


def test_gpus_run_torch_and_measure_nothing(configure):
    machine = Machine(gpu=True)
    config = configure()
    found, _ = resolve(config, measure=True, models=machine)
    assert machine.measured == []
    assert {found.models.options[f"{part}_runtime"] for part in ("detector", "pose", "depth")} == {"torch"}
    # A processor then does as the GPU did.
    assert resolve(config, measure=True, models=Machine())[0] == found


def test_on_slurm_the_jobs_decide_and_not_the_login_node(configure):
    machine = Machine(gpu=False)
    found, _ = resolve(configure(cluster={"kind": "slurm"}), measure=True, models=machine)
    assert machine.measured == []
    assert found.models.options["pose_runtime"] == "torch"
    shutil.rmtree(found.workspace)
    by_directive = {"kind": "slurm", "slurm": {"gres": "none", "directives": ["--gpus-per-node=2"]}}
    found, _ = resolve(configure(cluster=by_directive), measure=True, models=machine)
    assert machine.measured == []
    shutil.rmtree(found.workspace)
    jobs = {"kind": "slurm", "slurm": {"gres": None, "cpus": 1}}
    machine = Machine(gpu=True)
    on_processors = configure().model_copy(update={"cluster": ClusterConfig.model_validate(jobs)})
    resolve(on_processors, measure=True, models=machine)
    assert [part for part, *_ in machine.measured] == ["detector", "pose"]


def test_an_idle_gpu_is_pointed_out(configure):
    config, notes = configure(), Notes()
    resolve(config, measure=True, models=Machine())
    found, _ = resolve(config, measure=True, report=notes, models=Machine(gpu=True))
    assert found.models.options["pose_runtime"] == "onnxruntime"
    assert len(notes.texts) == 2
    assert 'pose_runtime = "torch"' in notes.texts[1]


def test_cuda_by_name_and_half_precision_leave_no_choice(configure):
    for change in ({"device": "cuda"}, {"precision": "bf16"}):
        machine = Machine()
        config = configure(models={"options": {**OPTIONS, **change}})
        found, pending = resolve(config, measure=False, models=machine)
        assert pending == machine.measured == []
        assert found.models.options["detector_runtime"] == found.models.options["pose_runtime"] == "torch"
        assert not (config.workspace / FILE).exists()


def test_half_precision_is_refused_where_the_processor_lacks_it(configure):
    config = configure(models={"options": {**OPTIONS, "precision": "bf16"}})
    with pytest.raises(ConfigError, match="bf16"):
        resolve(config, measure=True, models=Machine(bf16=False))
    resolve(config, measure=True, models=Machine(bf16=False, gpu=True))


def test_a_login_node_needs_neither_the_gpu_nor_the_packages_of_its_jobs(configure):
    """The batch jobs have them, and say so where they don't."""
    machine = Machine(bf16=False)
    for cluster in ({"kind": "slurm"}, {"kind": "slurm", "slurm": {"python": "apptainer exec a.sif python"}}):
        config = configure(models={"options": {**OPTIONS, "precision": "bf16", "device": "cuda"}}, cluster=cluster)
        assert resolve(config, measure=True, models=machine)[1] == []
    assert machine.asked == ["packages"], "for jobs of the same interpreter"


def test_what_is_finished_is_merged_anywhere(configure, monkeypatch):
    """Without a look at this machine, which costs the seconds that torch takes to be imported."""
    resolve(configure(), measure=True, models=Machine())
    machine = Machine(bf16=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, _ = resolve(configure(), measure=False, compute=False, models=machine)
    assert found.models.options["pose_runtime"] == "onnxruntime"
    resolve(configure(models={"options": {"precision": "bf16"}}), measure=False, compute=False, models=machine)
    assert machine.asked == []


def test_a_recorded_choice_of_torch_needs_no_look_for_a_gpu(configure):
    resolve(configure(), measure=True, models=Machine(gpu=True))
    machine = Machine()
    resolve(configure(), measure=True, models=machine)
    assert machine.asked == ["packages"]


def test_without_a_driver_torch_is_not_asked_for_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    monkeypatch.setattr(auglift_runtimes, "_has_driver", lambda: False)
    assert not auglift_runtimes.on_gpu({})
    monkeypatch.setattr(auglift_runtimes, "_has_driver", lambda: True)
    assert not auglift_runtimes.on_gpu({"device": "cpu"})
    with pytest.raises(ImportError):
        auglift_runtimes.on_gpu({})


def test_missing_packages_are_named_before_anything_runs(configure, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("mm") else object())
    with pytest.raises(ConfigError, match=r"no mmengine, mmcv, mmdet, mmpose.*make openmmlab"):
        resolve(configure(), measure=False)


def test_a_recorded_runtime_must_be_installed(configure, monkeypatch):
    config = configure()
    resolve(config, measure=True, models=Machine())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        resolve(config, measure=False, models=Machine())


def test_the_embedded_set_has_no_choice(configure):
    config = configure(models={"set": "embedded", "options": {}})
    assert resolve(config, measure=True) == (config, [])
    own = configure(models={"set": "my.module:build", "options": {}})
    assert resolve(own, measure=True) == (own, [])
    assert not (config.workspace / FILE).exists()


def test_what_is_asked_for_by_name_is_checked_before_anything_runs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(ConfigError, match="pip install openvino"):
        registry.check("auglift", **OPTIONS, pose_runtime="openvino")
    registry.check("auglift", **OPTIONS, pose_runtime="onnxruntime")
    for option in ({"precision": "bf16"}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="pose_runtime = 'onnxruntime' computes in fp32 on the CPU"):
            registry.check("auglift", **OPTIONS, pose_runtime="onnxruntime", **option)


def test_files_are_told_apart_by_their_weights(tmp_path):
    files = {f"{part}_file": tmp_path / part for part in ("detector", "pose", "depth")}
    for path in files.values():
        path.write_bytes(path.name.encode())
    before = auglift_runtimes.undecided(files)
    files["pose_file"].write_bytes(b"other weights")
    after = auglift_runtimes.undecided(files)
    assert before["detector"] == after["detector"]
    assert before["pose"] != after["pose"]
    assert str(tmp_path) not in json.dumps(after)


def test_info_shows_the_choice(configure):
    from etl.cli.info import describe

    config = configure()
    resolve(config, measure=True, models=Machine(torch=0.2))
    choice = Record.load(config.workspace).networks[POSE]
    assert runtimes.describe(choice) == "torch (a picture: torch 200 ms)"
    assert f"{POSE} runs on torch (a picture: torch 200 ms)" in describe(config.workspace)
