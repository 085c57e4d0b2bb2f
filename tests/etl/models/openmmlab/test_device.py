"""The set as it works on a GPU: inputs made on the device, few waits, batches in flight, and faults of the device.

The device is a stand-in (`benchmarks.standin`): it computes on the CPU, and counts what is sent and waited for.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.standin import Clock, StandIn
from etl.config import EstimateSettings
from etl.errors import DeviceError
from etl.models.auglift import catalog, openmmlab
from etl.models.auglift import model_set as auglift
from etl.models.auglift.depth_anything import DepthEstimator
from etl.models.auglift.rtmdet import PersonDetector, letterbox, letterbox_on_device, suppress
from etl.models.auglift.rtmpose import PoseEstimator, Region, crop_on_device
from etl.models.auglift.settings import AugliftSettings
from etl.models.base import Frame
from etl.models.geometry import invert
from etl.stages.blocks.chain import FrameFeatures, estimate_batch
from etl.stages.estimate import estimate_requests
from etl.stages.estimated_rows import Answer, Failure, Request
from etl.stages.flight import Flight, Lanes
from schemas.features import Status
from tests.etl.models.openmmlab import MARKS
from tests.etl.models.openmmlab.conftest import SIZES, draw
from tests.etl.models.openmmlab.test_auglift import SMALL

pytestmark = MARKS
EMBEDDED = EstimateSettings.model_validate({"embeddings": {"enabled": True, "keep_maps": True}})
PLAIN = EstimateSettings()


@pytest.fixture(scope="module")
def host() -> auglift.AugliftModels:
    """The set on the CPU."""
    return auglift.build(SMALL)


@pytest.fixture
def device(host: auglift.AugliftModels) -> auglift.AugliftModels:
    """The same networks on the stand-in."""
    settings = AugliftSettings(**{**SMALL, "inputs": "device"})
    context = StandIn(torch.device("cpu"), clock=Clock(), values=True)
    detector, pose = (
        openmmlab.read_config(network.package, network.config)
        for network in (catalog.DETECTORS[settings.detector], catalog.POSE_ESTIMATORS[settings.pose])
    )
    return auglift.AugliftModels(
        settings,
        PersonDetector(host.detector.model, detector, context),
        PoseEstimator(host.pose.model, pose, context),
        DepthEstimator(host.depth.model, context),
        {},
    )


def counts(models: auglift.AugliftModels) -> Counter[str]:
    """What the device was sent, and how often the host waited for it."""
    context = models.detector.context
    assert isinstance(context, StandIn)
    return context.clock.counts


@pytest.mark.parametrize("kind", ["edges", "noise"])
def test_inputs_made_on_the_device_are_within_one_level(kind: str) -> None:
    openmmlab.import_packages()
    draws = np.random.default_rng(0)
    for seed, size in enumerate(SIZES):
        image = draw(*size, seed) if kind == "edges" else draws.integers(0, 256, (size[1], size[0], 3), np.uint8)
        sent = torch.from_numpy(image)
        for wanted in ((640, 640), (320, 320)):
            apart = letterbox(image, wanted).astype(int) - letterbox_on_device(sent, wanted).numpy()
            assert np.abs(apart).max() <= 1
        boxes = ([20, 30, 180, 190], [-40, -30, 250, 180], [50.3, 20.7, 70.2, 90.1])
        regions = [Region.of_box(np.array(box, np.float32), (192, 256)) for box in boxes]
        matrices = np.stack([invert(region.matrix)[:2] for region in regions]).astype(np.float32)
        crops = crop_on_device(sent, torch.from_numpy(matrices), (192, 256)).numpy()
        for region, crop in zip(regions, crops, strict=True):
            assert np.abs(region.crop(image).astype(int) - crop).max() <= 1


def test_answers_from_inputs_of_the_device_stay_close(
    host: auglift.AugliftModels, device: auglift.AugliftModels, frames: list[Frame]
) -> None:
    (ours, theirs) = (models.detect(frames) for models in (device, host))
    for a, b in zip(ours, theirs, strict=True):
        # Random weights find people everywhere, some of them near the least score.
        sure = b.scores > 0.31
        assert sure.sum() >= 1
        apart = np.abs(a.boxes[:, None] - b.boxes[sure]).max(axis=2).min(axis=0)
        assert np.median(apart) < 1
    poses = [models.estimate_poses(frames, theirs) for models in (device, host)]
    for a, b in zip(*poses, strict=True):
        assert np.median(np.abs(a.keypoints - b.keypoints)) < 0.5
        np.testing.assert_allclose(a.scores, b.scores, atol=0.02)
    depths = [models.estimate_depth(frames, poses[1]) for models in (device, host)]
    for a, b in zip(*depths, strict=True):
        assert np.median(np.abs(a.to_array() / b.to_array() - 1)) < 0.01


class Hidden(TorchDispatchMode):
    """Counts what would make the host wait for a GPU without `fetch`: sizes or values that depend on a tensor's."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        mask = name in ("aten::index", "aten::index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if mask or name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2"):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("settings", "waits"), [(PLAIN, 3), (EMBEDDED, 5)])
def test_a_batch_is_sent_once_and_waited_for_a_few_times(
    device: auglift.AugliftModels, settings: EstimateSettings, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(count: int) -> list[Frame]:
        picture = draw(333, 200, 3)
        first = make_frame(picture, 0)
        return [Frame(first.key, i, np.roll(picture, i, axis=1), first.camera) for i in range(count)]

    monkeypatch.setattr(device.pose.batches, "size", 500)  # the random detector finds many
    found = {}
    for count in (2, 12):  # more frames mean no more waits
        frames = batch(count)
        counts(device).clear()
        with Hidden() as hidden:
            results = estimate_batch(frames, [None] * count, device, settings)
        assert all(one.found.all() for one in results)
        assert hidden.waits == {}
        assert counts(device)["waits"] == waits
        found[count] = counts(device)["sends"] - count
    # Besides each frame once: where the crops lie, and where the joints lie on the two maps.
    assert found == dict.fromkeys((2, 12), 1 if settings is PLAIN else 3)


def make_frame(image: Any, number: int) -> Frame:
    """A frame of an image."""
    from schemas.camera import Camera
    from schemas.keys import SequenceKey

    camera = Camera.from_field_of_view(image.shape[1], image.shape[0], 55.0)
    return Frame(SequenceKey("folder", "one", "walk", 1, "c"), number, image, camera)


def fly(models: Any, batches: list[list[Request]], lanes: Lanes | None, settings: EstimateSettings) -> list[Answer]:
    """Answers of batches, in order."""
    landed: list[Answer] = []

    def work(requests: list[Request]) -> list[Answer]:
        return estimate_requests(requests, models, settings, lanes)

    with Flight(work, landed.extend, lanes) as flight:
        for batch in flight.measure(batches):
            flight.launch(batch)
    return landed


def batches_of(size: int, count: int) -> list[list[Request]]:
    """Batches of small frames, each with a picture of its own."""
    frames = [make_frame(draw(160, 120, number), number) for number in range(size * count)]
    requests = [Request(frame, None) for frame in frames]
    return [requests[first : first + size] for first in range(0, len(requests), size)]


def test_results_in_flight_are_the_same_to_the_bit(device: auglift.AugliftModels) -> None:
    for settings in (PLAIN, EMBEDDED):
        alone, beside = (fly(device, batches_of(2, 6), lanes, settings) for lanes in (None, Lanes(3)))
        assert [number for number, _ in beside] == list(range(12))
        for (_, a), (_, b) in zip(alone, beside, strict=True):
            assert isinstance(a, FrameFeatures)
            assert isinstance(b, FrameFeatures)
            for x, y in ((a.values, b.values), (a.boxes, b.boxes), (a.embeddings.pose, b.embeddings.pose)):
                assert (x is None) == (y is None)
                assert x is None or x.tobytes() == y.tobytes()
            for stream, one in a.maps.items():
                assert one.values.tobytes() == b.maps[stream].values.tobytes()


STEPS = ("detector.forward", "pose.forward", "depth.forward", "embed", "device.send", "device.fetch")


@contextmanager
def fault(models: auglift.AugliftModels, step: str, on_call: int, act: Callable[[], None]) -> Iterator[Counter[str]]:
    """Let the `on_call`th call of a step do `act` before it works; counts the calls."""
    part, _, name = step.partition(".")
    owners = [models] if not name else [getattr(models, part)] if part != "device" else [models.detector.context]
    calls: Counter[str] = Counter()
    numbers = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        for owner in owners:
            attribute = name or part
            real = getattr(owner, attribute)

            def call(*args: Any, real: Any = real, **kwargs: Any) -> Any:
                calls[step] += 1
                if next(numbers) == on_call:
                    act()
                return real(*args, **kwargs)

            if part == "device":
                patch.setattr(StandIn, attribute, lambda self, *args, call=call: call(*args))
            else:
                patch.setattr(owner, attribute, call)
        yield calls


def raise_error() -> None:
    raise RuntimeError("an illegal instruction was encountered")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("act", [raise_error, run_out_of_memory])
def test_a_fault_that_passes_costs_a_batch_once(
    device: auglift.AugliftModels, step: str, act: Callable[[], None]
) -> None:
    with fault(device, step, 3, act):
        answers = fly(device, batches_of(2, 5), Lanes(3), EMBEDDED)
    assert [number for number, _ in answers] == list(range(10))
    assert not [found for _, found in answers if isinstance(found, Failure)]


@pytest.mark.parametrize("step", STEPS[:4])
def test_a_device_that_hangs_for_a_while_costs_the_while(device: auglift.AugliftModels, step: str) -> None:
    begun = time.perf_counter()
    with fault(device, step, 2, lambda: time.sleep(1.5)):
        answers = fly(device, batches_of(1, 4), Lanes(3), EMBEDDED)
    assert time.perf_counter() - begun > 1.5
    assert not [found for _, found in answers if isinstance(found, Failure)]
    assert [number for number, _ in answers] == list(range(4))


def test_a_frame_that_always_fails_costs_itself(device: auglift.AugliftModels, monkeypatch: pytest.MonkeyPatch) -> None:
    cursed = batches_of(3, 3)
    real, runs = device.estimate_depth, Counter[int]()

    def estimate_depth(frames: Any, poses: Any) -> Any:
        runs.update(frame.number for frame in frames)
        if any(frame.number == 4 for frame in frames):
            raise RuntimeError("frame 4 is cursed")
        return real(frames, poses)

    monkeypatch.setattr(device, "estimate_depth", estimate_depth)
    answers = dict(fly(device, cursed, Lanes(3), PLAIN))
    assert answers.pop(4) == Failure(Status.MODEL_ERROR, "RuntimeError: frame 4 is cursed")
    assert all(isinstance(found, FrameFeatures) for found in answers.values())
    # Its batch ran twice, together and frame by frame; the others once.
    assert runs == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1}


def test_memory_that_other_batches_hold_costs_no_frame(
    device: auglift.AugliftModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = device.depth.forward
    inside = []

    def crowded(images: Any) -> Any:
        inside.append(1)
        try:
            time.sleep(0.05)
            if len(inside) > 1:  # memory is there for one batch at a time
                run_out_of_memory()
            return real(images)
        finally:
            inside.pop()

    monkeypatch.setattr(device.depth, "forward", crowded)
    answers = fly(device, batches_of(1, 8), Lanes(3), PLAIN)
    assert not [found for _, found in answers if isinstance(found, Failure)]
    assert len(answers) == 8


def test_a_dead_device_ends_the_partition(device: auglift.AugliftModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "device_works", lambda: False)
    with fault(device, "pose.forward", 3, raise_error), pytest.raises(DeviceError, match="illegal instruction"):
        fly(device, batches_of(2, 6), Lanes(3), PLAIN)


def test_suppression_is_that_of_a_plain_loop() -> None:
    draws = np.random.default_rng(0)
    for _ in range(50):
        corner = draws.random((30, 2)).astype(np.float32) * 60
        boxes = np.concatenate([corner, corner + draws.random((30, 2)).astype(np.float32) * 50 + 1], axis=1)
        kept: list[int] = []
        for row, box in enumerate(boxes.astype(np.float64)):
            overlaps = []
            for other in boxes[kept].astype(np.float64):
                sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
                shared = max(sides[0], 0) * max(sides[1], 0)
                union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared
                overlaps.append(shared / union)
            if all(overlap <= 0.4 for overlap in overlaps):
                kept.append(row)
        assert suppress(boxes, 0.4) == kept
    assert suppress(np.zeros((0, 4), np.float32), 0.4) == []
