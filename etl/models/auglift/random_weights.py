"""Random weights with plausible outputs, for tests of the real code paths without checkpoints; never for data.

With plain random weights, deep networks give the same output for every image: detectors find nobody and depth is flat.
So batch normalisation is fitted to seeded pictures, and the last layers are scaled: the detector finds boxes, and depth
varies by metres.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

from etl.models.engines.torch_runtime import seeded
from etl.models.geometry import Size

# Half width and half height of the boxes in strides of the coarsest level, which alone fires.
_HALF_BOX: Final = (3.0, 6.0, 3.0, 6.0)
_NEVER: Final = -20.0
# Factor on the fitted variance. At 1, rounding errors grow at every layer. At much more than this, the outputs do
# not depend on the input.
_HEADROOM: Final = 1.12


def pictures(size: Size, seed: int, count: int = 2) -> torch.Tensor:
    """Random pictures (count, 3, height, width), normalised: overlapping rectangles, with edges at all scales."""
    width, height = size
    found = torch.zeros(count, 3, height, width)
    with seeded(seed):
        for picture in found:
            picture += torch.randn(3, 1, 1)
            for _ in range(150):
                x, y = (int(torch.rand(()) * length) for length in size)
                w, h = (int(torch.rand(()) ** 3 * length) + 4 for length in size)
                picture[:, y : y + h, x : x + w] = torch.randn(3, 1, 1) + 0.1 * torch.randn(1)
        found += 0.05 * torch.randn(found.shape)
    return found


@torch.no_grad()
def settle(model: Any, size: Size, seed: int) -> None:
    """Fit every batch normalisation of an OpenMMLab network's backbone, neck and head to pictures."""
    kind = torch.nn.modules.batchnorm._BatchNorm  # mmengine has its own class for it
    norms = [module for module in model.modules() if isinstance(module, kind)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    head = model.bbox_head if hasattr(model, "bbox_head") else model.head
    head(model.extract_feat(pictures(size, seed)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_var *= _HEADROOM
        norm.eval()


@torch.no_grad()
def enliven_detector(model: Any, size: Size, seed: int) -> None:
    """Let an RTMDet find a few people of a third of the image, everywhere, at scores that differ."""
    settle(model, size, seed)
    head = model.bbox_head
    *fine, coarse = range(len(head.rtm_cls))
    for level in fine:
        head.rtm_cls[level].bias.fill_(_NEVER)
        head.rtm_cls[level].weight.zero_()
    inputs = _inputs_of((head.rtm_cls[coarse], head.rtm_reg[coarse]), lambda: _run(model, size, seed))
    head.rtm_cls[coarse].bias[1:] = _NEVER
    head.rtm_cls[coarse].weight[1:] = 0
    _rescale(head.rtm_cls[coarse], inputs[0], [(1.0, 0.3)])
    wanted = [(math.log(half), 0.1) if head.exp_on_reg else (half, 0.1 * half) for half in _HALF_BOX]
    _rescale(head.rtm_reg[coarse], inputs[1], wanted)


def _run(model: Any, size: Size, seed: int) -> None:
    model.bbox_head(model.extract_feat(pictures(size, seed)))


@torch.no_grad()
def enliven_pose(model: Any, size: Size, seed: int) -> None:
    """Let an RTMPose put the joints of different crops in different places, with scores around 0.6."""
    settle(model, size, seed)
    head = model.head
    for layer, output in zip((head.cls_x, head.cls_y), head(model.extract_feat(pictures(size, seed))), strict=True):
        layer.weight *= 0.6 / output.amax(-1).mean()


@torch.no_grad()
def enliven_depth(model: Any, seed: int, patches: int = 12) -> None:
    """Let a Depth Anything of transformers spread over most of its range."""
    with seeded(seed):
        for module in [*model.neck.modules(), *model.head.modules()]:
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    module.bias.zero_()
    side = patches * model.config.patch_size
    picture = pictures((side, side), seed, 1)
    inputs = _inputs_of((model.head.conv3,), lambda: model(picture))
    _rescale(model.head.conv3, inputs[0], [(0.0, 1.0)])


def _inputs_of(layers: tuple[torch.nn.Module, ...], run: Any) -> list[torch.Tensor]:
    """What arrives at each of `layers` in a run."""
    found: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, key=i: found.__setitem__(key, args[0]))
        for i, layer in enumerate(layers)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return [found[i] for i in range(len(layers))]


def _rescale(layer: Any, x: torch.Tensor, wanted: list[tuple[float, float]]) -> None:
    """Give the first channels of a convolution's output these means and deviations for the input `x`."""
    layer.bias[: len(wanted)] = 0
    output = layer(x)
    for channel, (mean, deviation) in enumerate(wanted):
        factor = deviation / output[:, channel].std()
        layer.weight[channel] *= factor
        layer.bias[channel] = mean - factor * output[:, channel].mean()
