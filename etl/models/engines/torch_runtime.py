"""Device and precision of torch, batches that shrink when memory runs out, and checkpoints."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from etl.errors import ConfigError, ModelError

log = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["fp32", "bf16", "fp16"]
Item = TypeVar("Item")
Result = TypeVar("Result")
Module = TypeVar("Module", bound=torch.nn.Module)

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Messages of torch's allocators, and of libraries that allocate memory themselves. On the host the error is a plain
# RuntimeError, which only its text distinguishes.
_OUT_OF_MEMORY: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "nable to find a valid cuDNN algorithm",
    "unable to find an engine to execute this computation",
)


@dataclass(frozen=True)
class TorchContext:
    """Device and precision.

    Parameters
    ----------
    device : torch.device
        Device of the networks.
    precision : {"fp32", "bf16", "fp16"}
        bf16 and fp16 by autocast, for everything except the heads. Weights and all later steps stay float32.
    channels_last : bool
        Memory order of weights and activations; cuDNN's kernels for half precision prefer it.
    compile : bool
        Whether networks go through torch.compile.
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def choose(
        cls,
        device: Device = "auto",
        precision: Precision = "fp32",
        *,
        channels_last: bool = False,
        compile: bool = False,
    ) -> TorchContext:
        """Choose device and precision by the settings; ``auto`` is CUDA if there is a GPU.

        Raises
        ------
        ConfigError
            When CUDA is asked for and there is none, or when half precision is asked of a processor that lacks it.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                'device = "cuda" needs a GPU that torch can use.',
                f"torch {torch.__version__} finds no GPU",
                'Set device = "auto", or install a build of torch that fits the driver.',
            )
        chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if chosen == "cuda":  # for the whole process, because its threads share the flag
            torch.backends.cudnn.allow_tf32 = False
        if chosen == "cpu" and precision == "fp16":
            raise ConfigError(
                "fp16 needs a GPU.",
                'precision is "fp16" on a CPU',
                'Set precision = "fp32", or "bf16" on a processor with AMX.',
            )
        if chosen == "cpu":
            check_precision(precision)
        return cls(torch.device(chosen), precision, channels_last, compile)

    def place(self, module: Module) -> Module:
        """Move a module to the device, in the chosen memory order."""
        order = torch.channels_last if self.channels_last else torch.preserve_format
        return module.to(self.device, memory_format=order)

    @property
    def on_gpu(self) -> bool:
        """Whether the networks compute elsewhere than on the processor."""
        return self.device.type != "cpu"

    @contextmanager
    def inference(self, *, exact: bool = False) -> Iterator[None]:
        """Context without gradients, in the precision.

        Parameters
        ----------
        exact : bool
            Use fp32 whatever the setting. For heads: half precision would round their outputs to pixels and
            centimetres, and they cost little.
        """
        half = None if exact else _AUTOCAST.get(self.precision)
        cast = torch.autocast(self.device.type, dtype=half, enabled=half is not None)
        with torch.inference_mode(), cast:
            yield

    def send(self, array: NDArray[Any]) -> torch.Tensor:
        """Move a host array to the device; to a GPU asynchronously, through pinned memory."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.on_gpu:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def fetch(self, tensors: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
        """Copy tensors to the host, with one wait for all of them; on the CPU they share their memory.

        The wait is for the work that was given to the device before, not for that of other threads since.
        """
        if not self.on_gpu:
            return [tensor.numpy() for tensor in tensors]
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)  # sleeps, so that others get the processor
        arrived.record()
        arrived.synchronize()
        return [copy.numpy() for copy in copies]


def check_precision(precision: Precision) -> None:
    """Refuse a precision that the processor would only emulate, twenty times slower than fp32.

    Raises
    ------
    ConfigError
        When the precision is bf16 and the processor has neither AVX-512 BF16, AMX nor Arm's equivalent.
    """
    if precision == "bf16" and not has_bf16():
        raise ConfigError(
            "bf16 needs a GPU, or a processor with instructions for it.",
            "this processor has neither AVX-512 BF16 nor AMX",
            'Set precision = "fp32".',
        )


def has_bf16() -> bool:
    """Whether this machine's processor has instructions for products in bfloat16."""
    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # before torch 2.11


@dataclass
class Batches:
    """Runs a network over many items, a batch at a time; halves the batch and tries again when memory runs out.

    Parameters
    ----------
    size : int
        Largest batch; it stays halved after memory ran out.
    halvings : int
        How often memory ran out.
    """

    size: int
    halvings: int = field(default=0, init=False)

    def run(self, forward: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
        """Results of `forward` for all items, in order.

        Raises
        ------
        ModelError
            When a single item doesn't fit into memory.
        """
        results: list[Result] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            found = self._attempt(forward, batch)
            if found is None:
                # Outside the except block, so that the traceback no longer keeps the tensors alive.
                self._halve(len(batch))
            else:
                results.extend(found)
        return results

    def _attempt(
        self, forward: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]
    ) -> Sequence[Result] | None:
        try:
            return forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ModelError(
                    "A batch of one must fit into memory.",
                    f"memory ran out ({error})",
                    "Choose smaller models or a larger device.",
                ) from error
            return None

    def _halve(self, tried: int) -> None:
        self.size = max(1, tried // 2)
        self.halvings += 1
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("Memory ran out at a batch of %d; going on with %d.", tried, self.size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of torch's allocators or Python's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def answers(device: torch.device) -> bool:
    """Whether a device still computes: after an illegal access, for example, every later call to a GPU fails."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError as error:
        return is_out_of_memory(error)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context that draws random weights from `seed` and restores the process's random generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_checkpoint(path: Path, safe_globals: Sequence[Any] = ()) -> dict[str, Any]:
    """Read a torch file that holds nothing but weights and the types of `safe_globals`.

    Raises
    ------
    ModelError
        When the file can't be read, or names any other type.
    """
    try:
        with torch.serialization.safe_globals(list(safe_globals)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # a damaged archive raises anything: pickle's, zip's, EOF, KeyError
        asked = re.search(r"GLOBAL (\S+)", str(error))
        found = f"asks for {asked[1]}" if asked else f"is damaged ({type(error).__name__})"
        raise ModelError(
            "A checkpoint must hold nothing but weights and plain values.",
            f"{path} {found}",
            "Fetch it again (`xycd models fetch auglift`); never trust a file that asks for more.",
        ) from error
    if not isinstance(found, dict):
        raise ModelError("A checkpoint must be a mapping.", f"{path} holds a {type(found).__name__}", "Fetch it again.")
    return found


def fill(model: torch.nn.Module, state: dict[str, Any], source: Path) -> None:
    """Load `state` into `model`, every weight of it.

    Raises
    ------
    ModelError
        When a weight of the model is absent from the file, or has another shape.
    """
    own = model.state_dict()
    absent = sorted(name for name in own if name not in state)
    misfit = sorted(name for name, value in own.items() if name in state and state[name].shape != value.shape)
    if absent or misfit:
        raise ModelError(
            f"The checkpoint must fit the network ({len(own)} weights).",
            f"in {source}, {len(absent)} absent {absent[:3]}, {len(misfit)} of another shape {misfit[:3]}",
            "Use the checkpoint of this network and input size, or choose the network of the file.",
        )
    surplus = sorted(set(state) - set(own))
    if surplus:
        log.info("%s has %d weights that the network doesn't use: %s", source, len(surplus), surplus[:3])
    model.load_state_dict({name: state[name] for name in own})
