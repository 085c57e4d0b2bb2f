"""Where the jobs of a run find their keys and leave their logs."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.config import ClusterConfig, safe_path
from cluster.errors import ClusterError


def run_base(config: ClusterConfig, folder: Path | None) -> Path:
    """Folder on shared disk for keys and logs: within the profile's, else the caller's, else one at home.

    Runs make it private. The profile's own may be anything, such as a group's, and stays as it is.

    Raises
    ------
    ClusterError
        When its path can't stand in a batch script.
    """
    own = config.slurm.folder and config.slurm.folder / f"xycd-{os.getuid()}"
    chosen = own or folder or Path.home() / ".cache" / "xycd" / "cluster"
    try:
        return safe_path(chosen.absolute())
    except ValueError as error:
        raise ClusterError(
            "Jobs write into a folder whose path SLURM reads as it is.", str(error), "Set slurm.folder to another."
        ) from error
