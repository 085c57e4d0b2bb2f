"""Exported networks on ONNX Runtime, in fp32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from etl.errors import ModelError
from etl.models.engines.network import Forward
from etl.models.engines.torch_runtime import is_out_of_memory

_DTYPES: Final = {"tensor(float)": torch.float32, "tensor(uint8)": torch.uint8}
_OUT_OF_MEMORY: Final = ("bad alloc", "bad_alloc", "failed to allocate")


def on_onnxruntime(path: Path, threads: int) -> Forward:
    """Run an exported network by ONNX Runtime.

    Parameters
    ----------
    path : Path
        ONNX file.
    threads : int
        Threads of each call.

    Raises
    ------
    ModelError
        When the file can't be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin between calls take their processors from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise ModelError(
            "ONNX Runtime must be able to load an exported network.",
            f"{path} can't be loaded: {error}",
            'Update it, or set the network\'s runtime to "torch".',
        ) from error
    (source,) = session.get_inputs()
    dtype = _DTYPES[source.type]

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            found = session.run(None, {source.name: _array(images, dtype)})
        except Exception as error:
            raise _as_memory_error(error) from error
        return tuple(torch.from_numpy(values) for values in found)

    return forward


def _array(images: torch.Tensor, dtype: torch.dtype) -> Any:
    return np.ascontiguousarray(images.to(dtype).numpy())


def _as_memory_error(error: Exception) -> Exception:
    """The error as a MemoryError, which `Batches` handles, if memory ran out; else the same error."""
    out_of_memory = is_out_of_memory(error) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)
    return MemoryError(str(error)) if out_of_memory else error
