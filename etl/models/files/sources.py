"""Sources of model files: a URL, a folder, or a wheel on the Python package index."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from etl.errors import ModelError

SOURCE_VARIABLE: Final = "XYCD_MODEL_SOURCE"
DOWNLOAD_SECONDS: Final = 1800.0
# Only data files are taken, so one wheel serves every machine.
_WHEEL: Final = ("--platform", "manylinux_2_28_x86_64", "--python-version", "311", "--implementation", "cp")


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel of the Python package index, e.g. of ``mediapipe==0.10.21``."""

    requirement: str
    member: str

    def __str__(self) -> str:
        return f"{self.requirement} (PyPI), {self.member}"

    def wheel_in(self, folder: Path) -> Path | None:
        """Return the wheel in a folder, or None."""
        return next(iter(sorted(folder.glob(self.requirement.replace("==", "-") + "-*.whl"))), None)


def source_folder() -> Path | None:
    """Return the folder that ``$XYCD_MODEL_SOURCE`` names, or None."""
    named = os.environ.get(SOURCE_VARIABLE)
    return Path(named) if named else None


@contextmanager
def opened_url(url: str, what: str) -> Iterator[IO[bytes]]:
    """Open the content of a URL; `what` names it in errors.

    Raises
    ------
    ModelError
        When the URL isn't http or https, can't be reached, or breaks off.
    """
    fix = f"Check the network; without one, copy the file to a folder and set {SOURCE_VARIABLE} to it."
    if not url.startswith(("https://", "http://")):
        raise ModelError("The URL of a model file must be http or https.", f"another kind of URL ({url})", fix)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            yield answer
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise ModelError(f"A download of {what} needs {url}.", f"the download failed ({error})", fix) from error


@contextmanager
def opened_member(wheel: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a wheel.

    Raises
    ------
    ModelError
        When the wheel is damaged or has no such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            yield stream
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(
            f"The wheel {wheel} must be complete and contain {member}.",
            str(error).strip("'\""),
            "Remove it, and run `xycd models fetch` again.",
        ) from error


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel into `folder` with pip, under the user's own configuration of indexes and proxies.

    Raises
    ------
    ModelError
        With pip's last lines, when it fails.
    """
    # An environment made by uv has no pip of its own: another pip on the path works as well.
    pips = [[sys.executable, "-m", "pip"], *([path] for name in ("pip3", "pip") if (path := shutil.which(name)))]
    arguments = [
        "download", requirement, "--no-deps", "--only-binary=:all:", *_WHEEL, "--dest", str(folder),
        "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
    ]  # fmt: skip
    reason = ""
    for pip in pips:
        try:
            done = subprocess.run([*pip, *arguments], capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
        except subprocess.TimeoutExpired:
            reason = f"no end within {DOWNLOAD_SECONDS:.0f} s"
            break
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = " / ".join(lines[-2:]) or f"exit status {done.returncode}"
        if "No module named pip" not in reason:
            break
    raise ModelError(
        f"pip must be able to download {requirement}, which contains the networks.",
        f"pip failed ({reason})",
        "Check the network and `pip config list`; without a network, copy the wheel or the files to a folder "
        f"and set {SOURCE_VARIABLE} to it.",
    )
