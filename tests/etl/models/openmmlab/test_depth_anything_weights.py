"""The authors' files give the authors' network: their forward pass, written out by their names, is the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("transformers", reason="needs the extra openmmlab")

from torch.nn import functional as F

from etl.errors import ModelError
from etl.models.auglift import catalog
from etl.models.auglift.depth_anything_weights import from_authors, load
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS

# The shape of the network "tiny": width, heads, blocks, widths of the neck, width of the fusion, of the last layers.
D, HEADS, BLOCKS, NECK, FUSION, LAST = 48, 3, 4, (12, 24, 48, 48), 32, 32
SIDE = 518


def authors_state() -> dict[str, Any]:
    """Random weights by the authors' names."""
    shapes: dict[str, tuple[int, ...]] = {
        "pretrained.cls_token": (1, 1, D),
        "pretrained.mask_token": (1, D),
        "pretrained.pos_embed": (1, 1 + 37 * 37, D),
        "pretrained.patch_embed.proj.weight": (D, 3, 14, 14),
        "pretrained.norm.weight": (D,),
    }
    for i in range(BLOCKS):
        block = f"pretrained.blocks.{i}"
        shapes |= {f"{block}.{name}": (D,) for name in ("ls1.gamma", "ls2.gamma", "norm1.weight", "norm2.weight")}
        shapes |= {f"{block}.attn.qkv.weight": (3 * D, D), f"{block}.attn.proj.weight": (D, D)}
        shapes |= {f"{block}.mlp.fc1.weight": (4 * D, D), f"{block}.mlp.fc2.weight": (D, 4 * D)}
    for i, width in enumerate(NECK):
        shapes[f"depth_head.projects.{i}.weight"] = (width, D, 1, 1)
        shapes[f"depth_head.scratch.layer{i + 1}_rn.weight"] = (FUSION, width, 3, 3)
        stage = f"depth_head.scratch.refinenet{i + 1}"
        shapes[f"{stage}.out_conv.weight"] = (FUSION, FUSION, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                shapes[f"{stage}.resConfUnit{unit}.conv{conv}.weight"] = (FUSION, FUSION, 3, 3)
    shapes |= {
        "depth_head.resize_layers.0.weight": (NECK[0], NECK[0], 4, 4),
        "depth_head.resize_layers.1.weight": (NECK[1], NECK[1], 2, 2),
        "depth_head.resize_layers.3.weight": (NECK[3], NECK[3], 3, 3),
        "depth_head.scratch.output_conv1.weight": (FUSION // 2, FUSION, 3, 3),
        "depth_head.scratch.output_conv2.0.weight": (LAST, FUSION // 2, 3, 3),
        "depth_head.scratch.output_conv2.2.weight": (1, LAST, 1, 1),
    }
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        spread = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 and name.endswith("weight") else 0.3
        state[name] = torch.randn(shape, generator=random) * spread
        if "_rn" not in name and name.endswith("weight"):
            outputs = shape[1] if "resize_layers.0" in name or "resize_layers.1" in name else shape[0]
            state[name.replace("weight", "bias")] = torch.randn(outputs, generator=random) * 0.1
    return state


def authors_depth(s: dict[str, Any], x: Any) -> Any:
    """Depth (N, 518, 518) in units of the greatest: a vision transformer and the head of DPT."""

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (D,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def conv(x: Any, name: str, **options: Any) -> Any:
        return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **options)

    grid = SIDE // 14
    x = conv(x, "pretrained.patch_embed.proj", stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([s["pretrained.cls_token"].expand(len(x), -1, -1), x], dim=1) + s["pretrained.pos_embed"]
    levels = []
    for i in range(BLOCKS):
        block = f"pretrained.blocks.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(len(x), -1, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (D // HEADS) ** 0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(len(x), -1, D)
        x = x + s[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + s[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
        levels.append(norm(x, "pretrained.norm")[:, 1:].transpose(1, 2).reshape(len(x), D, grid, grid))
    levels = [conv(level, f"depth_head.projects.{i}") for i, level in enumerate(levels)]
    for i, factor in ((0, 4), (1, 2)):
        name = f"depth_head.resize_layers.{i}"
        levels[i] = F.conv_transpose2d(levels[i], s[f"{name}.weight"], s[f"{name}.bias"], stride=factor)
    levels[3] = conv(levels[3], "depth_head.resize_layers.3", stride=2, padding=1)
    levels = [conv(level, f"depth_head.scratch.layer{i + 1}_rn", padding=1) for i, level in enumerate(levels)]

    def unit(x: Any, name: str) -> Any:
        return x + conv(F.relu(conv(F.relu(x), f"{name}.conv1", padding=1)), f"{name}.conv2", padding=1)

    path = None
    for i in (4, 3, 2, 1):
        name = f"depth_head.scratch.refinenet{i}"
        path = levels[3] if path is None else path + unit(levels[i - 1], f"{name}.resConfUnit1")
        size = levels[i - 2].shape[2:] if i > 1 else [2 * n for n in path.shape[2:]]
        path = unit(path, f"{name}.resConfUnit2")
        path = conv(F.interpolate(path, size, mode="bilinear", align_corners=True), f"{name}.out_conv")
    out = conv(path, "depth_head.scratch.output_conv1", padding=1)
    out = F.interpolate(out, (SIDE, SIDE), mode="bilinear", align_corners=True)
    out = F.relu(conv(out, "depth_head.scratch.output_conv2.0", padding=1))
    return torch.sigmoid(conv(out, "depth_head.scratch.output_conv2.2"))[:, 0]


@pytest.fixture(scope="module")
def config() -> Any:
    return catalog.depth_config(catalog.DEPTH_ESTIMATORS["depth-anything-v2-indoor-tiny"])


def test_the_authors_file_is_the_authors_network(tmp_path: Path, config: Any) -> None:
    state = authors_state()
    torch.save(state, tmp_path / "depth_anything_v2_metric_hypersim_vitx.pth")
    model = load(config, tmp_path / "depth_anything_v2_metric_hypersim_vitx.pth")
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, truth = model(x).predicted_depth, 20 * authors_depth(state, x)
    assert truth.std() > 0.5
    np.testing.assert_allclose(found.numpy(), truth.numpy(), rtol=1e-4)


def test_a_file_of_outdoor_weights_is_no_indoor_network(tmp_path: Path, config: Any) -> None:
    torch.save(authors_state(), tmp_path / "depth_anything_v2_metric_vkitti_vitx.pth")
    with pytest.raises(ModelError, match=r"80 m.*reaches 20 m"):
        load(config, tmp_path / "depth_anything_v2_metric_vkitti_vitx.pth")


def test_a_file_without_a_weight_is_refused(tmp_path: Path, config: Any) -> None:
    state = authors_state()
    del state["depth_head.scratch.layer3_rn.weight"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"lacks 1 of the weights, such as neck\.convs\.2\.weight"):
        load(config, tmp_path / "a.pth")


def test_names_of_transformers_stay() -> None:
    assert set(from_authors({"neck.convs.2.weight": torch.ones(1)})) == {"neck.convs.2.weight"}
