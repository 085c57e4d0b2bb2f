"""What a runtime runs: a network between pixels and raw answers, without the decoding around it.

Resizing, the choice of boxes, the flip test and sampling stay outside, in code that all runtimes share; so the runtimes
differ by rounding errors only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch

from etl.models.engines.torch_runtime import Runtime

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Runs a `Network`: pictures (N, H, W, 3) to its outputs, on the device where the pictures are."""


class Network(torch.nn.Module, ABC):  # type: ignore[misc]
    """A module from pictures (N, H, W, 3), RGB in [0, 255], to a tuple of tensors, in fp32 but for autocast.

    `axes` names the input and then each output, with those of its axes that may change from call to call.
    """

    axes: Mapping[str, Mapping[int, str]]

    @abstractmethod
    def example(self, batch: int) -> torch.Tensor:
        """Some input of the real size and dtype."""


def on_torch(network: Network, runtime: Runtime) -> Forward:
    """Run a network by torch, where and how `runtime` says; its weights are moved there."""
    placed = runtime.place(network)
    compiled = torch.compile(placed) if runtime.compile else placed

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with runtime.inference():
            return compiled(images)

    return forward
