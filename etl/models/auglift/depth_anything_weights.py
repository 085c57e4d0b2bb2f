"""Load weights of Depth Anything V2: files of transformers, and files of the authors with renamed weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from etl.errors import ModelError
from etl.models.engines.torch_runtime import load_checkpoint, seeded

# Patterns of the authors' names, and transformers' names, in the order of matching. transformers counts the stages of
# fusion from the coarsest, the authors from the finest.
_NAMES: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"pretrained\.(cls_token|mask_token)", r"backbone.embeddings.\1"),
        (r"pretrained\.pos_embed", r"backbone.embeddings.position_embeddings"),
        (r"pretrained\.patch_embed\.proj\.(\w+)", r"backbone.embeddings.patch_embeddings.projection.\1"),
        (r"pretrained\.norm\.(\w+)", r"backbone.layernorm.\1"),
        (r"pretrained\.blocks\.(\d+)\.ls([12])\.gamma", r"backbone.encoder.layer.\1.layer_scale\2.lambda1"),
        (r"pretrained\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"backbone.encoder.layer.\1.attention.output.dense.\2"),
        (r"pretrained\.blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"backbone.encoder.layer.\1.\2.\3"),
        (r"depth_head\.projects\.(\d)\.(\w+)", r"neck.reassemble_stage.layers.\1.projection.\2"),
        (r"depth_head\.resize_layers\.(\d)\.(\w+)", r"neck.reassemble_stage.layers.\1.resize.\2"),
        (r"depth_head\.scratch\.layer([1-4])_rn\.weight", r"neck.convs.{0}.weight"),
        (r"depth_head\.scratch\.refinenet([1-4])\.out_conv\.(\w+)", r"neck.fusion_stage.layers.{1}.projection.\2"),
        (
            r"depth_head\.scratch\.refinenet([1-4])\.resConfUnit([12])\.conv([12])\.(\w+)",
            r"neck.fusion_stage.layers.{1}.residual_layer\2.convolution\3.\4",
        ),
        (r"depth_head\.scratch\.output_conv1\.(\w+)", r"head.conv1.\1"),
        (r"depth_head\.scratch\.output_conv2\.0\.(\w+)", r"head.conv2.\1"),
        (r"depth_head\.scratch\.output_conv2\.2\.(\w+)", r"head.conv3.\1"),
    )
)
_QKV: Final = re.compile(r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(\w+)")
# Training data in the authors' file names, and the greatest depth in metres.
_RANGES: Final = {"hypersim": 20, "vkitti": 80}


def draw(config: Any, seed: int) -> Any:
    """Build a network with random weights from a configuration of transformers, for tests."""
    from transformers import DepthAnythingForDepthEstimation

    with seeded(seed):
        return DepthAnythingForDepthEstimation(config).eval().requires_grad_(False)


def load(config: Any, file: Path) -> Any:
    """Build a network from a configuration of transformers and a file of weights.

    Parameters
    ----------
    config : transformers.DepthAnythingConfig
        Shape and greatest depth.
    file : Path
        ``.safetensors``, or a torch checkpoint of the authors. The greatest depth isn't in the weights: a
        ``config.json`` beside them, or the name of an authors' file, must agree with `config`.

    Raises
    ------
    ModelError
        When the weights are damaged or of another network.
    """
    from transformers import DepthAnythingForDepthEstimation
    from transformers.utils import logging

    _check_range(config, file)
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        state = load_file(file) if file.suffix == ".safetensors" else load_checkpoint(file)
        # transformers itself knows the names of its modules in earlier versions.
        model, report = DepthAnythingForDepthEstimation.from_pretrained(
            None, config=config, state_dict=from_authors(state), output_loading_info=True
        )
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            "The weights must fit the network.",
            f"{file} can't be loaded: {error}",
            "Fetch the file again, or choose the network of its size.",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        raise ModelError(
            "The weights must fit the network.",
            f"{file} lacks {len(absent)} of the weights, such as {absent[0]}",
            "Choose the network of the file's size.",
        )
    return model.eval().requires_grad_(False)


def from_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights of the authors to transformers' names; others stay as they are.

    The authors store query, key and value in one matrix, in this order.
    """
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if qkv := _QKV.fullmatch(name):
            block, kind = qkv.groups()
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                # Cloned: transformers may tie tensors that share memory.
                found[f"backbone.encoder.layer.{block}.attention.attention.{part}.{kind}"] = piece.clone()
        else:
            found[_renamed(name)] = value
    return found


def _renamed(name: str) -> str:
    for pattern, other in _NAMES:
        if match := pattern.fullmatch(name):
            if "{" not in other:
                return match.expand(other)
            stage = int(match[1])
            return match.expand(other.replace("{0}", str(stage - 1)).replace("{1}", str(4 - stage)))
    return name


def _check_range(config: Any, file: Path) -> None:
    described = file.with_name("config.json")
    said = next((reach for name, reach in _RANGES.items() if name in file.name), None)
    where = file
    if said is None and file.suffix == ".safetensors" and described.is_file():
        said, where = json.loads(described.read_text(encoding="utf-8")).get("max_depth"), described
    if said is not None and said != config.max_depth:
        raise ModelError(
            f"The weights must be of a network that reaches {config.max_depth} m (20 indoors, 80 outdoors).",
            f"the greatest depth is {said} m in {where}",
            "Choose the indoor or outdoor network of the files.",
        )
