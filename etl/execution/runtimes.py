"""Which runtime each network of a workspace runs on: chosen once, recorded, and the same for every machine after that.

Runtimes differ by rounding errors, so they are part of the stage key. Were each machine to choose for itself, a second
run elsewhere would do everything again.
"""

from __future__ import annotations

import functools
import importlib
import platform
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.processors import processors
from etl.config import Config
from etl.errors import WorkspaceError
from etl.models import registry
from etl.models.engines.choice import TORCH, check_installed, fastest
from etl.stages.progress import Reporter, Silent
from etl.store.workspace import write_atomically

FILE: Final = "runtimes.json"


class Choice(BaseModel):
    """One network's runtime, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    reason: Literal["measured", "gpu"]
    seconds: dict[str, float] = Field({}, description="For a picture, by runtime.")
    threads: int | None = None
    machine: str = ""


class Record(BaseModel):
    """The choices of a workspace, by network and weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    networks: dict[str, Choice] = {}

    @classmethod
    def load(cls, workspace: Path) -> Self:
        """The record of a workspace; an empty one where there is none.

        Raises
        ------
        WorkspaceError
            When it is damaged.
        """
        path = workspace / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise WorkspaceError(
                "The workspace's record of runtimes is whole.",
                f"{path}: {error.errors()[0]['msg']}",
                "Delete it: runtimes are then measured anew, and if another is faster now, features are made anew. To "
                "keep the features that there are, name their runtimes, which each stage.json has, as options.",
            ) from error

    def adding(self, network: str, choice: Choice) -> Record:
        """The record with one more choice."""
        return Record(networks={**self.networks, network: choice})

    def save(self, workspace: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(workspace / FILE, self.model_dump_json(indent=1).encode())


def resolve(
    config: Config,
    *,
    measure: bool,
    compute: bool = True,
    report: Reporter | None = None,
    models: Any | None = None,
) -> tuple[Config, list[str]]:
    """Put the workspace's choices in place of every runtime that is left open.

    Parameters
    ----------
    config : Config
        Of the run.
    measure : bool
        Choose where there is no choice yet, by measuring on this machine, and record it; the workspace must be locked.
        Otherwise such a network stays at ``auto``, and nothing is written.
    compute : bool
        Whether networks are to run, so that their packages, and on this machine their device, must be there.
    report : Reporter, optional
        Told of new choices.
    models : module, optional
        As `etl.models.auglift.runtimes`; by default that of the model set, if it has one.

    Returns
    -------
    config : Config
        With the runtimes named.
    pending : list of str
        Networks without a choice; none if `measure`.

    Raises
    ------
    WorkspaceError
        When the record is damaged.
    ConfigError
        When a package or a recorded runtime isn't installed, or workers of this machine lack the device or the
        precision that is asked for. Those of a cluster find out where they are: its login node may have neither.
    """
    report = report or Silent()
    models = models or _module(config)
    if models is None:
        return config, []
    options, cache = config.models.options, config.models.cache
    record, choices, pending = Record.load(config.workspace), dict[str, str](), list[str]()
    wanted: Mapping[str, str] = models.undecided(options, cache)
    gpu = functools.cache(lambda: _uses_gpu(config, models))  # asked only where it matters: torch takes seconds
    here = config.cluster.kind == "local"
    if compute and (here or config.cluster.slurm.python is None):
        models.check_packages()
    if compute and here:
        models.check_here(options, gpu)
    for part, network in wanted.items():
        choice = record.networks.get(network)
        if choice is None and not measure:
            pending.append(getattr(models.parse(options), part))
            continue
        if choice is None:
            choice = Choice(runtime=TORCH, reason="gpu") if gpu() else _measured(config, models, part)
            record = record.adding(network, choice)
            record.save(config.workspace)
            report.note(f"{network.split()[0]} runs on {describe(choice)}")
        elif choice.runtime != TORCH and compute and gpu():
            report.note(
                f"{network.split()[0]} runs on {choice.runtime}, as {FILE} says, and leaves the GPU idle; "
                f'{part}_runtime = "torch" would use it, and make new features'
            )
        if compute:
            check_installed(choice.runtime)
        choices[part] = choice.runtime
    if pending:
        return config, pending
    settled = config.models.model_copy(update={"options": models.decided(options, choices)})
    return config.model_copy(update={"models": settled}), []


def describe(choice: Choice) -> str:
    """A choice in words."""
    if not choice.seconds:
        return f"{choice.runtime} ({choice.reason})"
    ranked = sorted(choice.seconds.items(), key=lambda item: item[1])
    measured = ", ".join(f"{name} {1e3 * seconds:,.{0 if seconds >= 0.1 else 1}f} ms" for name, seconds in ranked)
    return f"{choice.runtime} (a picture: {measured})"


def _module(config: Config) -> ModuleType | None:
    name = registry.SETS[config.models.set].runtimes_module if config.models.set in registry.SETS else ""
    return importlib.import_module(name) if name else None


def _measured(config: Config, models: Any, part: str) -> Choice:
    cluster = config.cluster
    slurm = cluster.slurm
    wanted = (
        (cluster.threads_per_worker or 1) if cluster.kind == "local" else max(1, slurm.cpus // slurm.workers_per_job)
    )
    threads = min(wanted, processors())
    seconds: dict[str, float] = models.measure(
        config.models.options, part, config.models.cache, threads=threads, frames=config.estimate.batch
    )
    return Choice(
        runtime=fastest(seconds),
        reason="measured",
        seconds={name: float(f"{value:.3g}") for name, value in seconds.items()},
        threads=threads,
        machine=platform.processor() or platform.machine(),
    )


def _uses_gpu(config: Config, models: Any) -> bool:
    """Whether the workers will have a GPU: on SLURM by what is asked for, here by what torch sees."""
    device = config.models.options.get("device", "auto")
    if device != "auto":
        return bool(device == "cuda")
    if config.cluster.kind == "slurm":
        return config.cluster.slurm.gpus > 0
    return config.cluster.local.gpus != "none" and bool(models.on_gpu(config.models.options))
