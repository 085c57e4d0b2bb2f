"""Every step from the image to a network and back, with stand-in networks that report where a spot lies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from etl.errors import MediaError
from etl.models.auglift import (
    catalog,
    openmmlab,
)
from etl.models.auglift.catalog import Processing
from etl.models.auglift.depth_anything import DepthEstimator, input_size, resize, resize_on_device
from etl.models.auglift.embedding import image_to_grid, sample
from etl.models.auglift.rtmdet import PersonDetector
from etl.models.auglift.rtmpose import PoseEstimator
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import apply
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS
CPU = TorchContext.choose("cpu")

sizes = st.tuples(st.integers(120, 1600), st.integers(120, 1600)).filter(lambda s: 0.25 < s[0] / s[1] < 4)
places = st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8))
probe = settings(deadline=None, max_examples=25)


def spot(
    size: tuple[int, int], place: tuple[float, float], width_of_it: float = 0.03
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """RGB picture with one soft spot, and its place in px."""
    width, height = size
    at = np.array(place) * (width - 1, height - 1)
    sigma = width_of_it * min(size)
    x, y = (np.exp(-(((np.arange(n) - c) / sigma) ** 2) / 2) for n, c in zip(size, at, strict=True))
    gray = np.rint(255 * y[:, None] * x).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), at


def center_of_mass(values: Any) -> Any:
    """x, y of each map (N, h, w) of a spot on nothing."""
    x, y = torch.arange(values.shape[2]), torch.arange(values.shape[1])
    values = values.double().clamp(min=0)
    total = values.sum((1, 2))
    return torch.stack([(values.sum(1) * x).sum(1) / total, (values.sum(2) * y).sum(1) / total], dim=-1)


class Identity(torch.nn.Module):
    """Looks at its input; the base of the stand-ins."""

    def __init__(self, swap: bool) -> None:
        super().__init__()
        self.data_preprocessor = SimpleNamespace(mean=torch.zeros(1), std=torch.ones(1), _channel_conversion=swap)

    def extract_feat(self, x: Any) -> Any:
        return (x,)


class Detector(Identity):
    """Gives a box of 20 x 40 input px around the spot, as edges, which start half a pixel before a centre."""

    # A single prior, in the corner.
    prior_generator = SimpleNamespace(
        num_levels=1, strides=[(640, 640)], grid_priors=lambda sizes, device: [torch.zeros(1, 2, device=device)]
    )

    def __init__(self) -> None:
        super().__init__(swap=False)

    @property
    def bbox_head(self) -> Any:
        return self

    def forward(self, features: Any) -> Any:
        (x,) = features
        # Padding is grey; the spot is brighter where it matters.
        edge = center_of_mass(torch.where(x[:, :1] == 114, 0.0, x[:, :1])[:, 0]) + 0.5
        half = torch.tensor([10.0, 20.0])
        distances = torch.cat([half - edge, half + edge], 1)
        return [torch.full((len(x), 1, 1, 1), 9.0)], [distances[:, :, None, None]]


def as_given(image: Any, on_device: bool) -> Any:
    """The image as the set gives it to the networks: on the host, or on the device that makes their inputs."""
    return torch.from_numpy(image) if on_device else image


@probe
@given(sizes, places, st.booleans())
def test_boxes_come_back_from_the_letterbox(size: tuple[int, int], place: tuple[float, float], on_device: bool) -> None:
    network = catalog.DETECTORS["rtmdet-m-person"]
    detector = PersonDetector(Detector(), openmmlab.read_config(network.package, network.config), CPU)
    image, at = spot(size, place)
    boxes, _ = detector.detect([as_given(image, on_device)])[0]
    middle = (boxes[0, :2] + boxes[0, 2:]) / 2 - 0.5
    np.testing.assert_allclose(middle, at, atol=0.1)
    # The height of 40 input px in image px; width and height may be scaled apart by the rounding to whole px.
    assert boxes[0, 3] - boxes[0, 1] == pytest.approx(40 * max(size) / 640, rel=0.01)


class Pose(Identity):
    """Puts all joints on the spot, and keeps the crop as its features."""

    def __init__(self) -> None:
        super().__init__(swap=True)

    @property
    def head(self) -> Any:
        return self

    def forward(self, features: Any) -> Any:
        center = center_of_mass(features[0][:, 0])
        return center[:, None, :1].expand(-1, 17, 1), center[:, None, 1:].expand(-1, 17, 1)

    @property
    def decoder(self) -> Any:
        return self

    def decode(self, x: Any, y: Any) -> Any:
        return np.concatenate([x, y], axis=-1).astype(np.float32), np.ones((len(x), 17), np.float32)


@probe
@given(sizes, places, st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)), st.floats(0.5, 2.5), st.booleans())
def test_joints_come_back_from_the_crop(
    size: tuple[int, int], place: tuple[float, float], offset: tuple[float, float], aspect: float, on_device: bool
) -> None:
    network = catalog.POSE_ESTIMATORS["rtmpose-l-384x288"]
    config = openmmlab.read_config(network.package, network.config)
    estimator = PoseEstimator(Pose(), config, CPU, flip_test=False)
    image, at = spot(size, place)
    # A box that holds the spot, and may reach beyond the image.
    half = 0.25 * min(size) * np.array([aspect**0.5, aspect**-0.5])
    middle = at + np.array(offset) * min(size)
    box = np.concatenate([middle - half, middle + half]).astype(np.float32)
    ((person,),) = estimator.estimate([as_given(image, on_device)], [box[None]])
    np.testing.assert_allclose(person.keypoints, np.tile(at, (17, 1)), atol=0.1)
    # The crop's matrix, by which features are placed, says the same.
    in_crop = center_of_mass(person.features[:1].float())[0].numpy()
    scale = person.region.scale[0] / 288
    np.testing.assert_allclose(apply(person.region.matrix, at) * scale, in_crop * scale, atol=0.1)
    assert person.region.scale[0] / person.region.scale[1] == pytest.approx(0.75, rel=1e-5)
    assert person.region.scale.max() >= 1.25 * 2 * half.max() * 0.999


def depth_estimator(processing: Processing = "transformers") -> DepthEstimator:
    """Gives the picture as depth in grey levels, and its means over patches as features."""

    def network(images: Any) -> Any:
        x = images.permute(0, 3, 1, 2).float()
        return x[:, 0], torch.nn.functional.avg_pool2d(x, 14)

    config = SimpleNamespace(patch_size=14, fusion_hidden_size=3)
    return DepthEstimator(None, CPU, config=config, forward=network, processing=processing)


@probe
@given(sizes, places, st.booleans())
def test_depth_comes_back_from_the_multiple_of_14(
    size: tuple[int, int], place: tuple[float, float], on_device: bool
) -> None:
    image, at = spot(size, place)
    (depth,) = depth_estimator().estimate([as_given(image, on_device)])
    assert depth.shape == (size[1], size[0])
    found = torch.from_numpy(depth.to_array())[None]
    np.testing.assert_allclose(center_of_mass(torch.where(found > 2, found, 0.0))[0], at, atol=0.1)
    np.testing.assert_allclose(found[0], image[..., 0], atol=6)


@probe
@given(sizes, places)
def test_the_published_way_back_stretches_as_it_does(size: tuple[int, int], place: tuple[float, float]) -> None:
    image, at = spot(size, place)
    (depth,) = depth_estimator("authors").estimate([image])
    # Edges on edges forth, corner pixels on corner pixels back.
    ends = np.array(input_size(size, "authors"))
    expected = ((at + 0.5) * ends / size - 0.5) * (np.array(size) - 1) / (ends - 1)
    found = torch.from_numpy(depth.to_array())[None]
    np.testing.assert_allclose(center_of_mass(torch.where(found > 2, found, 0.0))[0], expected, atol=0.1)


@probe
@given(sizes, st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)))
def test_features_of_depth_lie_where_the_image_has_them(size: tuple[int, int], place: tuple[float, float]) -> None:
    image, at = spot(size, place, 0.07)
    (depth,) = depth_estimator().estimate([image])
    assert depth.grid == tuple(n // 14 for n in input_size(size))
    shifted = depth.features[None, :1] - depth.features[:1].min()
    in_cells = center_of_mass(shifted[0])[0].numpy()
    per_cell = np.array(size) / depth.grid
    np.testing.assert_allclose(apply(image_to_grid(size, depth.grid), at) * per_cell, in_cells * per_cell, atol=0.1)
    brightest = sample(shifted, torch.from_numpy(in_cells)[None, None], "bilinear")
    assert float(brightest) > 0.5 * float(shifted.max())


@pytest.mark.parametrize(
    ("size", "transformers", "authors"),
    [
        ((1000, 1000), (518, 518), (518, 518)),
        ((1000, 1002), (518, 518), (518, 518)),
        ((1920, 1080), (924, 518), (924, 518)),
        ((1080, 1920), (518, 924), (518, 924)),
        ((2048, 2048), (518, 518), (518, 518)),
        # Smaller than 518: transformers changes the size as little as it can, the authors fill the shorter side.
        ((320, 240), (518, 392), (686, 518)),
        ((640, 480), (686, 518), (686, 518)),
        ((480, 300), (518, 322), (826, 518)),
    ],
)
def test_sizes_of_inputs(size: tuple[int, int], transformers: tuple[int, int], authors: tuple[int, int]) -> None:
    assert input_size(size) == transformers
    assert input_size(size, "authors") == authors


@pytest.mark.parametrize("processing", ["transformers", "authors"])
def test_images_without_a_shape_for_the_network_are_refused(processing: Processing) -> None:
    assert min(input_size((4000, 400), processing)) == 518
    for size in ((4000, 20), (20, 4000)):
        with pytest.raises(MediaError, match=rf"{size[0]} x {size[1]}.*10 times"):
            input_size(size, processing)


@pytest.mark.parametrize("processing", ["transformers", "authors"])
def test_the_device_resizes_as_the_host_does(processing: Processing) -> None:
    rng = np.random.default_rng(0)
    for size in ((1000, 1002), (333, 200), (404, 720)):
        noise = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        wanted = input_size(size, processing)
        found = resize_on_device(torch.from_numpy(noise), wanted, processing)
        apart = (found - resize(noise, wanted, processing).float()).abs()
        assert float((apart > (1 if processing == "transformers" else 0.05)).float().mean()) <= 0.012
        assert float(apart.max()) < (32 if processing == "transformers" else 0.05)


@settings(deadline=None, max_examples=300)
@given(st.tuples(st.integers(20, 4000), st.integers(20, 4000)).filter(lambda s: max(s) <= 10 * min(s)))
def test_sizes_of_inputs_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.dpt.image_processing_pil_dpt import get_resize_output_image_size

    found = get_resize_output_image_size(np.zeros((1, size[1], size[0]), bool), (518, 518), True, 14)
    assert input_size(size) == (found.width, found.height)
