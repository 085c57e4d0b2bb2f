"""Batches that shrink, checkpoints that can't run code, devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")

from etl.errors import ConfigError, ModelError
from etl.models.auglift import runtimes as auglift_runtimes
from etl.models.auglift.settings import parse
from etl.models.engines import torch_runtime
from etl.models.engines.torch_runtime import Batches, TorchContext, answers, fill, load_checkpoint, seeded
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS


class Device:
    """Doubles numbers, up to `room` at a time."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.batches = room, error, list[int]()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(len(items))
        if len(items) > self.room:
            raise self.error
        return [2 * item for item in items]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
    ids=["cuda", "host", "python", "cublas", "cudnn", "algorithm", "engine"],
)
def test_a_batch_is_halved_until_it_fits_and_stays_so(error: Exception) -> None:
    batches, device = Batches(8), Device(3, error)
    assert batches.run(device, list(range(9))) == [2 * i for i in range(9)]
    assert device.batches == [8, 4, 2, 2, 2, 2, 1]
    assert (batches.size, batches.halvings) == (2, 2)
    assert batches.run(device, [1, 2]) == [2, 4]
    assert batches.halvings == 2


def test_a_short_last_batch_that_does_not_fit_is_halved_too() -> None:
    batches, device = Batches(8), Device(1, MemoryError())
    assert batches.run(device, [5, 6, 7]) == [10, 12, 14]
    assert device.batches == [3, 1, 1, 1]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelError, match="batch of one"):
        Batches(2).run(Device(0, torch.OutOfMemoryError("CUDA out of memory")), [1, 2])


def test_other_errors_are_not_taken_for_it() -> None:
    batches = Batches(8)
    with pytest.raises(RuntimeError, match="shape"):
        batches.run(Device(0, RuntimeError("shape mismatch")), [1, 2])
    assert batches.halvings == 0


def test_nothing_is_no_batch() -> None:
    device = Device(1, MemoryError())
    assert Batches(4).run(device, []) == []
    assert device.batches == []


def test_a_missing_gpu_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TorchContext.choose("auto").device.type == "cpu"
    with pytest.raises(ConfigError, match="GPU"):
        TorchContext.choose("cuda")
    with pytest.raises(ConfigError, match="fp16"):
        TorchContext.choose("auto", "fp16")


def test_bf16_is_never_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever led to the processor: a setting, a job without a GPU, a node whose driver fails."""
    monkeypatch.setattr(torch_runtime, "has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("auto", "cpu"):
        with pytest.raises(ConfigError, match="bf16 needs a GPU"):
            TorchContext.choose(device, "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TorchContext.choose("auto", "bf16").device.type == "cuda"


def test_what_this_machine_lacks_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auglift_runtimes.check_device(parse({"precision": "bf16"}), lambda: True)
    auglift_runtimes.check_device(parse({"device": "cuda"}), lambda: True)
    with pytest.raises(ConfigError, match="bf16"):
        auglift_runtimes.check_device(parse({"precision": "bf16"}), lambda: False)  # local.gpus = "none", say
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options in ({"device": "cuda"}, {"precision": "fp16"}):
        with pytest.raises(ConfigError, match="GPU"):
            auglift_runtimes.check_device(parse(options), lambda: False)


def test_precision_is_that_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "has_bf16", lambda: True)  # slow where it isn't, and right all the same
    x = torch.full((2, 2), 1.001)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with TorchContext.choose("cpu", precision).inference():
            assert (x @ x).dtype == dtype


def test_seeds_repeat_and_leave_the_process_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(3)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_is_asked_whether_it_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers(torch.device("cpu"))
    for error, alive in (
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ):
        monkeypatch.setattr(torch, "ones", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert answers(torch.device("cuda")) == alive


class Trap:
    """Writes a file when unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": Trap(tmp_path / "sprung")}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"a\.pth.*system"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.pth"):
        load_checkpoint(tmp_path / "a.pth")


def test_values_of_training_logs_load(tmp_path: Path) -> None:
    pytest.importorskip("mmengine")
    from mmengine.logging.history_buffer import HistoryBuffer

    from etl.models.auglift.openmmlab import safe_globals

    history = HistoryBuffer([0.5, 0.25], [1, 1])
    kept = {"state_dict": {"w": torch.ones(2)}, "loss": history, "lr": np.float64(0.1), "steps": np.int64(3)}
    torch.save(kept, tmp_path / "a.pth")
    # As numpy 1 names its modules, which published files do.
    old = _renamed(tmp_path / "a.pth", b"numpy._core.multiarray", b"numpy.core.multiarray")
    for path in (tmp_path / "a.pth", old):
        found = load_checkpoint(path, safe_globals())
        assert found["lr"] == 0.1
        assert found["loss"].current() == 0.25


def test_a_checkpoint_gets_at_nothing_through_getattr(tmp_path: Path) -> None:
    pytest.importorskip("mmengine")
    from mmengine.logging.history_buffer import HistoryBuffer

    from etl.models.auglift.openmmlab import safe_globals

    torch.save({"state_dict": {}, "x": Attribute(HistoryBuffer, "__init__")}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="__init__ of"):
        load_checkpoint(tmp_path / "a.pth", safe_globals())


class Attribute:
    """Asks for an attribute when unpickled."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.owner, self.name)


def _renamed(path: Path, old: bytes, new: bytes) -> Path:
    """A copy of a checkpoint whose pickle calls a module by another name."""
    import zipfile

    target = path.with_name("old.pth")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")
                assert old not in data
            out.writestr(info.filename, data)
    return target


def test_every_weight_must_come_from_the_file(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3).requires_grad_(False)
    with pytest.raises(ModelError, match=r"1 absent \['bias'\], 1 of another shape \['weight'\]"):
        fill(model, {"weight": torch.ones(3, 3)}, tmp_path)
    fill(model, {"weight": torch.ones(3, 2), "bias": torch.zeros(3), "extra": torch.ones(1)}, tmp_path)
    assert float(model.weight.sum()) == 6
