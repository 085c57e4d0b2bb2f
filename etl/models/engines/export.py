"""Networks as ONNX files, exported once and kept beside the model files.

A file is named after the network and the hash of its weights. Its SHA-256 is noted when it is written. A file with
another hash is damaged, and is exported again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock, Timeout

from etl.errors import ModelError
from etl.models.engines.network import Network
from etl.models.files import weights
from etl.models.files.weights import sha256

log = logging.getLogger(__name__)

# Raised when the export changes, so that older files aren't used.
VERSION: Final = 1
OPSET: Final = 17
FOLDER: Final = "onnx"
LOCK_SECONDS: Final = 1800.0


def exported(name: str, weights_hash: str, make: Callable[[], Network], cache: Path | None = None) -> Path:
    """Export a network as an ONNX file, unless it exists; one process exports, others wait for it.

    Parameters
    ----------
    name : str
        Of the network; it determines everything but the weights.
    weights_hash : str
        Hexadecimal.
    make : callable
        Gives the network in evaluation mode on the host; called only if there is no intact file yet.
    cache : Path, optional
        Folder of the model files; the user's cache by default.

    Raises
    ------
    ModelError
        When the cache can't be written, or the export by another process takes too long.
    """
    folder = (cache or weights.cache_folder()) / FOLDER
    path = folder / f"{name}-{weights_hash[:16]}-{VERSION}.onnx"
    if is_whole(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{path.name}.lock", timeout=LOCK_SECONDS):
            if not is_whole(path):
                if path.exists():
                    log.warning("%s is damaged; it is exported again", path)
                _write(make(), path)
    except Timeout as error:
        raise ModelError(
            f"The export of {name} by another process must end within {LOCK_SECONDS:.0f} s.",
            f"another process still holds {error.lock_file}",
            "End that process.",
        ) from error
    except OSError as error:
        raise ModelError(
            f"The model cache {folder} must be writable: exported networks are kept there.",
            f"it can't be written ({error})",
            f'Free some space, set {weights.CACHE_VARIABLE} to another folder, or set the runtimes to "torch".',
        ) from error
    return path


def is_whole(path: Path) -> bool:
    """Whether the file exists with the SHA-256 that was noted when it was exported."""
    try:
        return note_of(path).read_text(encoding="ascii").strip() == sha256(path)
    except (OSError, UnicodeDecodeError):
        return False


def note_of(path: Path) -> Path:
    """The file that holds the SHA-256 of an exported file."""
    return path.with_name(f"{path.name}.sha256")


def state_hash(network: torch.nn.Module) -> str:
    """SHA-256 of all weights (name, dtype, shape, values), for weights that come from no file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(network: Network, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        _export(network, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        note = note_of(temporary)
        note.write_text(sha256(temporary), encoding="ascii")
        temporary.replace(path)
        note.replace(note_of(path))


def _export(network: Network, path: Path) -> None:
    source, *outputs = network.axes
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every shape that becomes a constant; the tests compare the results at other shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (network.example(1),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[source],
            output_names=outputs,
            dynamic_axes={name: dict(axes) for name, axes in network.axes.items()},
        )
