"""The verb `info`: versions, devices and model files of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import typer

from etl.cli.options import ConfigOption, WorkspaceOption, workspace_of
from etl.stages.progress import size
from etl.store.disk import free_bytes
from etl.store.workspace import Workspace

PACKAGES = (
    "xycd", "numpy", "xarray", "netCDF4", "dask", "distributed", "dask-jobqueue", "av", "opencv-python-headless",
    "ai-edge-litert", "torch", "mmdet", "mmpose", "mmcv", "mmcv-lite", "transformers", "onnxruntime",
)  # fmt: skip


def info(workspace: WorkspaceOption = None, config: ConfigOption = None) -> None:
    """Show versions, devices and model files of this machine, for a bug report."""
    # Without either, only the machine is shown: nobody named a workspace.
    typer.echo(describe(workspace_of(workspace, config) if workspace or config else None))


def describe(workspace: Path | None = None) -> str:
    """Describe this machine and, if given, a workspace."""
    from etl.models import registry

    lines = [f"python       {platform.python_version()} on {platform.platform()}"]
    lines.append(f"cores        {os.cpu_count()}")
    lines += [f"gpu          {name}" for name in gpus()] or ["gpu          none"]
    for name in PACKAGES:
        lines.append(f"{name:<25}{_version(name)}")
    lines += ["", "model files:", *(f"  {line}" for line in registry.table().to_string(index=False).splitlines())]
    if workspace is not None:
        lines += ["", f"workspace {workspace}: {size(free_bytes(workspace))} free"]
        space = Workspace(workspace)
        lines += [f"  {name}: {space.current(name)}" for name in space.datasets()] or ["  no results yet"]
    return "\n".join(lines)


def gpus() -> list[str]:
    """Return names, memory and driver version of the NVIDIA GPUs."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
