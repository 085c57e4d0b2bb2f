"""Networks as ONNX files, exported once and kept beside the model files.

A file is named after the network and the hash of its weights, and counts only with the SHA-256 that was noted when it
was written. What is damaged is exported again.
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

# Of how networks are exported: raised when that changes, so that older files aren't taken.
VERSION: Final = 1
OPSET: Final = 17
FOLDER: Final = "onnx"
LOCK_SECONDS: Final = 1800.0


def exported(name: str, weights_hash: str, make: Callable[[], Network], cache: Path | None = None) -> Path:
    """The network as an ONNX file, exported by the first process that asks; others wait for it.

    Parameters
    ----------
    name : str
        Of the network; it decides everything but the weights.
    weights_hash : str
        Hexadecimal.
    make : callable
        Gives the network in evaluation mode on the host; called only where there is no whole file yet.
    cache : Path, optional
        Folder of the model files; the user's cache by default.

    Raises
    ------
    ModelError
        When the cache can't be written, or another process doesn't come to an end.
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
                    log.warning("%s isn't what was exported there; it is exported again", path)
                _write(make(), path)
    except Timeout as error:
        raise ModelError(
            f"Another process that exports {name} ends within {LOCK_SECONDS:.0f} s.",
            f"{error.lock_file} still held",
            "End that process.",
        ) from error
    except OSError as error:
        raise ModelError(
            f"The model cache {folder} can be written: exported networks are kept there.",
            str(error),
            f'Free some space, set {weights.CACHE_VARIABLE} to another folder, or set the runtimes to "torch".',
        ) from error
    return path


def is_whole(path: Path) -> bool:
    """Whether the file is there, with the SHA-256 that was noted when it was exported."""
    try:
        return note_of(path).read_text(encoding="ascii").strip() == sha256(path)
    except (OSError, UnicodeDecodeError):
        return False


def note_of(path: Path) -> Path:
    """The file that holds the SHA-256 of an exported file."""
    return path.with_name(f"{path.name}.sha256")


def state_hash(network: torch.nn.Module) -> str:
    """SHA-256 of all weights, by name, dtype, shape and value: for weights that no file holds."""
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
        # The tracer is afraid of every shape that it meets as a number; the tests compare the results at other shapes.
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
