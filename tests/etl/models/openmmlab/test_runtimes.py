"""Each network on ONNX Runtime against torch, and the exported files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")
pytest.importorskip("onnxruntime", reason="needs the extra openmmlab")

from etl.errors import ConfigError, ModelError
from etl.models.auglift import build as auglift_build
from etl.models.auglift import model_set as auglift
from etl.models.auglift.settings import parse
from etl.models.base import Frame
from etl.models.engines import export as onnx_export
from etl.models.engines import torch_runtime
from etl.models.engines.network import Network, on_torch
from etl.models.engines.onnx_runtime import on_onnxruntime
from etl.models.engines.torch_runtime import Batches, TorchContext
from tests.etl.models.openmmlab import MARKS
from tests.etl.models.openmmlab.test_auglift import SMALL

pytestmark = MARKS

MEDIUM = {**SMALL, "detector": "rtmdet-tiny", "pose": "rtmpose-s", "depth": "depth-anything-v2-indoor-small"}
PARTS = ("detector", "pose", "depth")


@pytest.fixture(scope="module", params=[SMALL, pytest.param(MEDIUM, marks=pytest.mark.slow)], ids=["small", "medium"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Networks with random weights."""
    return request.param


@pytest.fixture(scope="module", name="pictures")
def some_pictures(options: dict[str, Any], frames: list[Frame]) -> list[Frame]:
    """All sizes for small networks, a portrait and a landscape for larger ones."""
    return frames if options is SMALL else frames[1:3]


@pytest.fixture(scope="module")
def reference(options: dict[str, Any]) -> auglift.AugliftModels:
    """The set on torch."""
    return auglift.build(options)


@pytest.fixture(scope="module")
def truth(reference: auglift.AugliftModels, pictures: list[Frame]) -> tuple[Any, ...]:
    """What it finds: people, poses, depths."""
    detections = reference.detect(pictures)
    poses = reference.estimate_poses(pictures, detections)
    return detections, poses, reference.estimate_depth(pictures, poses)


@pytest.fixture(scope="module")
def other(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> auglift.AugliftModels:
    """The set on ONNX Runtime."""
    cache = tmp_path_factory.getbasetemp() / f"cache-{options['pose']}"
    built = auglift.build({**options, **{f"{part}_runtime": "onnxruntime" for part in PARTS}}, cache)
    assert built.identity["runtimes"] == dict.fromkeys(PARTS, "onnxruntime")
    assert built.depth.model is None, "no weights are kept for torch beside the exported ones"
    return built


def test_answers_are_those_of_torch(
    reference: auglift.AugliftModels, other: auglift.AugliftModels, truth: tuple[Any, ...], pictures: list[Frame]
) -> None:
    for found, expected in zip(other.detect(pictures), truth[0], strict=True):
        assert len(expected) > 0
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    # From here on both are given the same, since a box that moves by a thousandth of a pixel gives another crop.
    poses = other.estimate_poses(pictures, truth[0])
    depths = other.estimate_depth(pictures, poses)
    joints = [found.keypoints for found in truth[1]]
    for found, expected in zip(poses, truth[1], strict=True):
        np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.01)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    for found, expected, points, frame in zip(depths, truth[2], joints, pictures, strict=True):
        height, width = frame.image.shape[:2]
        pixels = np.rint(points).astype(int).clip(0, (width - 1, height - 1))
        np.testing.assert_allclose(found.windows(pixels, 0), expected.windows(pixels, 0), rtol=1e-4)
        assert np.ptp(expected.to_array()) > 3, "metres"
    embedded = other.embed(poses, depths, joints)
    for found, expected in zip(embedded, reference.embed(truth[1], truth[2], joints), strict=True):
        for name in ("pose", "depth"):
            own, theirs = (np.asarray(getattr(side, name), np.float64) for side in (found, expected))
            np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=1e-3)


def test_a_batch_of_another_size_runs_too(other: auglift.AugliftModels, pictures: list[Frame]) -> None:
    one = other.detect(pictures[:1])[0]
    three = other.detect([pictures[0]] * 3)
    for found in three:
        np.testing.assert_allclose(found.boxes, one.boxes, atol=0.01)


class Doubling(Network):
    """A network of one weight."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.axes = {"images": {0: "batch"}, "doubled": {0: "batch"}}

    def example(self, batch: int) -> Any:
        """Noise."""
        return torch.rand(batch, 4, 6, 3)

    def forward(self, images: Any) -> tuple[Any, ...]:
        """Twice the images."""
        return (images * self.factor,)


class Maker:
    """Makes a network, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Network:
        self.count += 1
        return Doubling()


def test_a_network_is_exported_once(tmp_path: Path) -> None:
    make = Maker()
    paths = {onnx_export.exported("doubling", "ab" * 32, make, tmp_path) for _ in range(3)}
    assert make.count == 1
    assert {path.name for path in paths} == {"doubling-abababababababab-1.onnx"}
    assert onnx_export.exported("doubling", "cd" * 32, make, tmp_path) not in paths
    assert make.count == 2
    assert not [p for p in (tmp_path / "onnx").iterdir() if p.name.startswith(".export-")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"doubled", b"halved.")),
        lambda path: path.unlink(),
        lambda path: onnx_export.note_of(path).unlink(),
        lambda path: onnx_export.note_of(path).write_bytes(b"\xff\x00"),
    ],
    ids=["cut", "changed", "gone", "unknown", "note"],
)
def test_a_damaged_file_is_exported_again_and_never_used(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make = Maker()
    path = onnx_export.exported("doubling", "ab" * 32, make, tmp_path)
    damage(path)
    assert not onnx_export.is_whole(path)
    assert onnx_export.exported("doubling", "ab" * 32, make, tmp_path) == path
    assert make.count == 2
    (found,) = on_onnxruntime(path, 1)(torch.ones(2, 4, 6, 3))
    assert found.unique().tolist() == [2]


def test_processes_that_ask_at_once_export_once(tmp_path: Path) -> None:
    make, found = Maker(), list[Path]()
    gate = threading.Barrier(4)

    def ask() -> None:
        gate.wait()
        found.append(onnx_export.exported("doubling", "ab" * 32, make, tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(set(found)), len(found), make.count) == (1, 4, 1)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "onnx").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match=r"model cache .*onnx must be writable"):
        onnx_export.exported("doubling", "ab" * 32, Maker(), tmp_path)


def test_weights_that_no_file_holds_are_told_apart() -> None:
    assert onnx_export.state_hash(Doubling()) == onnx_export.state_hash(Doubling())
    assert onnx_export.state_hash(Doubling()) != onnx_export.state_hash(Doubling(3.0))


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"a\.onnx.*load an exported network"):
        on_onnxruntime(tmp_path / "a.onnx", 1)


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    forward = on_onnxruntime(onnx_export.exported("doubling", "ab" * 32, Doubling, tmp_path), 1)
    run = onnxruntime.InferenceSession.run

    def tight(self: Any, outputs: Any, inputs: dict[str, Any]) -> Any:
        if len(inputs["images"]) > 2:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation; Failed to allocate memory")
        return run(self, outputs, inputs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", tight)
    batches = Batches(8)
    found = batches.run(lambda items: list(forward(torch.stack(list(items)))[0]), [torch.ones(4, 6, 3)] * 5)
    assert len(found) == 5
    assert batches.size == 2


def test_a_runtime_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a))
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        auglift.build({**SMALL, "pose_runtime": "onnxruntime"}, tmp_path)


def test_bf16_is_refused_where_a_processor_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "has_bf16", lambda: False)
    with pytest.raises(ConfigError, match="bf16 needs a GPU, or a processor with instructions for it"):
        TorchContext.choose("cpu", "bf16")
    TorchContext.choose("cpu", "fp32")
    monkeypatch.setattr(torch_runtime, "has_bf16", lambda: True)
    assert TorchContext.choose("cpu", "bf16").precision == "bf16"


def test_channels_last_changes_the_order_and_no_value() -> None:
    plain = auglift_build.build_pose(parse(SMALL), None)
    other = auglift_build.build_pose(parse({**SMALL, "channels_last": True}), None)
    weight = next(p for p in other.model.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    crops = torch.randint(0, 256, (2, 256, 192, 3), dtype=torch.uint8)
    for own, theirs in zip(other.forward(crops), plain.forward(crops), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3)


def test_a_network_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module: asked.append(module) or module)
    network = Doubling()
    (found,) = on_torch(network, TorchContext(torch.device("cpu"), compile=True))(torch.ones(1, 4, 6, 3))
    assert found.unique().tolist() == [2]
    assert asked == [network]
    on_torch(network, TorchContext(torch.device("cpu")))
    assert len(asked) == 1
