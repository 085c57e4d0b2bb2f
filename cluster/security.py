"""Keys of a run: its own certificate, in a folder that only its owner can enter, gone when the run is.

Whoever speaks to a dask scheduler runs code as its owner, so every connection shows this run's certificate or is
refused. Workers on other nodes read the key from shared disk; that is the one place where it lies.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Security

from cluster import files
from cluster.owner import Owner, disk_time

PREFIX = "slurm-"  # folders of runs, each named after its jobs
DAYS = 90


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key, PEM. It is its own authority: no other certificate is accepted."""

    certificate: str
    key: str

    def in_memory(self) -> Security:
        """For scheduler and clients of this process."""
        return self._security(self.certificate, self.certificate, self.key)

    @staticmethod
    def in_files(folder: Path) -> Security:
        """For workers, which find the files in `folder`."""
        certificate = str(folder / "certificate.pem")
        return Certificate._security(certificate, certificate, str(folder / "key.pem"))

    @staticmethod
    def _security(authority: str, certificate: str, key: str) -> Security:
        roles = ("client", "scheduler", "worker")
        pairs = {f"tls_{role}_cert": certificate for role in roles} | {f"tls_{role}_key": key for role in roles}
        return Security(require_encryption=True, tls_ca_file=authority, **pairs)


def certificate() -> Certificate:
    """A fresh certificate.

    Valid from a day ago, since clocks of nodes differ, for 90 days. (distributed's own temporary one starts at this
    very second, so that a node whose clock is behind refuses it.)
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "xycd")])
    now = datetime.datetime.now(tz=datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("xycd")]), critical=False)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(signed.public_bytes(pem).decode(), private.decode())


class RunFolder:
    """The folder of one run's keys, `<base>/slurm-<id>`, with a note of who owns it.

    Parameters
    ----------
    base : Path
        On shared disk; made private.
    job_name : str
        Name of the run's jobs, and of the folder after the prefix.
    tls : bool
        Whether there are keys; without, the folder only says who owns the jobs.
    """

    def __init__(self, base: Path, job_name: str, tls: bool = True) -> None:
        self.path = files.private_folder(files.private_folder(base) / f"{PREFIX}{job_name}")
        try:
            files.create_private(self.path / "owner.json", Owner.this().model_dump_json())
            self.certificate = certificate() if tls else None
            if self.certificate:
                files.create_private(self.path / "key.pem", self.certificate.key)
                files.create_private(self.path / "certificate.pem", self.certificate.certificate)
        except BaseException:
            self.remove()
            raise

    @staticmethod
    def files(base: Path, job_name: str) -> Security:
        """For the workers of the run `job_name`, which find their files in its folder."""
        return Certificate.in_files(base / f"{PREFIX}{job_name}")

    def touch(self) -> None:
        """Say that the owner lives."""
        with suppress(OSError):  # a full or absent disk is noticed by those who need it
            os.utime(self.path / "owner.json")

    def remove(self) -> None:
        """Delete the keys, and the folder."""
        _remove(self.path)


def clean_stale(base: Path, cancel: Callable[[str], None]) -> list[str]:
    """Remove what runs that were killed left in `base`: pending jobs, then keys.

    Parameters
    ----------
    base : Path
        Folder that runs were started in.
    cancel : callable
        Called with the job name of each dead run; cancels its jobs.

    Returns
    -------
    list of str
        Job names of the runs that were cleaned up after.
    """
    if not base.is_dir():
        return []
    cleaned = []
    now = disk_time(base)
    for folder in sorted(base.glob(f"{PREFIX}*")):
        text = files.read_private(folder / "owner.json")
        try:
            heartbeat = (folder / "owner.json").stat().st_mtime if text else folder.stat().st_mtime
        except FileNotFoundError:  # its run ended just now
            continue
        # A folder without a note, or with half of one, is being made, or was when its run died.
        owner = Owner.read(text or "")
        alive = owner.alive(heartbeat, now) if owner else now - heartbeat < 60
        if not alive:
            cancel(folder.name.removeprefix(PREFIX))
            _remove(folder)
            cleaned.append(folder.name.removeprefix(PREFIX))
    return cleaned


def _remove(folder: Path) -> None:
    (folder / "key.pem").unlink(missing_ok=True)  # first, whatever happens to the rest
    shutil.rmtree(folder, ignore_errors=True)
