"""Networks between pixels and raw outputs, and what runs them in batches.

Resizing, the choice of boxes, the flip test and sampling stay outside, in code that all runtimes share. So the runtimes
differ by rounding errors only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch

from etl.models.engines.torch_runtime import Batches, TorchContext

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Runs a `Network`: images (N, H, W, 3) to its outputs, on the device of the images."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Network(torch.nn.Module, ABC):  # type: ignore[misc]
    """A module from images (N, H, W, 3), RGB in [0, 255], to a tuple of tensors, in fp32 outside autocast.

    `axes` names the input and then each output, with the axes that may change from call to call.
    """

    axes: Mapping[str, Mapping[int, str]]

    @abstractmethod
    def example(self, batch: int) -> torch.Tensor:
        """Input of the real size and dtype."""


class Estimator(ABC, Generic[Item, Result]):
    """Runs a network over many items, a batch at a time.

    Parameters
    ----------
    network : callable
        Gives the network; called only if torch runs it.
    context : TorchContext
        Device and precision.
    forward : Forward or None
        What runs the network; torch if None.
    batch : int
        Largest number of items at a time.
    """

    def __init__(
        self, network: Callable[[], Network], context: TorchContext, forward: Forward | None, batch: int
    ) -> None:
        self.forward = forward or on_torch(network(), context)
        self.context, self.batches = context, Batches(batch)

    def run(self, items: Sequence[Item]) -> list[Result]:
        """Results of all items, in order.

        Raises
        ------
        ModelError
            When a single item doesn't fit into memory.
        """
        return self.batches.run(self.run_batch, items)

    @abstractmethod
    def run_batch(self, items: Sequence[Item]) -> list[Result]:
        """Results of the items of one batch."""


def on_torch(network: Network, context: TorchContext) -> Forward:
    """Run a network by torch; its weights are moved to the device of `context`."""
    placed = context.place(network)
    compiled = torch.compile(placed) if context.compile else placed

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with context.inference():
            return compiled(images)

    return forward
