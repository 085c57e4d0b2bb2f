"""The verbs about workers: how a run is doing, more or fewer of them, and whether a cluster is fit for the night."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.options import ConfigOption, WorkspaceOption, configured, workspace_of
from etl.errors import ConfigError

if TYPE_CHECKING:
    from etl.config import Config


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for verb in (status, scale, stop, logs):
        app.command()(verb)
    configured(
        app,
        "check",
        "Before the night: start one worker where the run would, and report what would fail at 3 a.m.",
        lambda config, _: check(config),
    )


def status(
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until the run ends.")] = False,
) -> None:
    """Say how a run is doing, from any terminal: frames done and left, rate, time left, workers, failures."""
    from rich.console import Console

    from cluster.control import read_status
    from cluster.slurm.detach import pending
    from etl.execution.driver import pending_text, status_text

    folder = run_folder(workspace, config)
    while True:
        waiting = pending(folder)
        found = None if waiting else read_status(folder)
        if watch:
            Console().clear()
        typer.echo(pending_text(waiting) if waiting else status_text(found))
        if not watch or (found is not None and not found.alive):
            return
        time.sleep(2)


def scale(
    target: Annotated[str, typer.Argument(help="A number of workers, or MIN:MAX to follow the load.")],
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
) -> None:
    """Give a run more workers or fewer, while it runs; from any terminal."""
    from cluster.control import send

    typer.echo(send(run_folder(workspace, config), "scale", target))


def stop(
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    now: Annotated[bool, typer.Option("--now", help="Don't finish what is running.")] = False,
) -> None:
    """Stop a run: finish what is running, then leave. The same `xycd run` goes on later."""
    from cluster.control import send
    from cluster.slurm.detach import cancel_pending

    folder = run_folder(workspace, config)
    job = cancel_pending(folder)
    if job is not None:
        typer.echo(f"job {job}, which was to drive the run and hadn't begun, is cancelled")
        return
    typer.echo(send(folder, "stop", "now" if now else ""))


def logs(
    job: Annotated[str | None, typer.Argument(help="Number of a job; without it, all that have a log.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Show what SLURM jobs of a run have written."""
    from cluster.slurm.logs import jobs_folder, listing, tail

    folder = jobs_folder(run_folder(workspace, config))
    if job is not None:
        typer.echo("\n".join(tail(folder, job, lines)) or f"no log of job {job} in {folder}")
        return
    numbers = listing(folder)
    if not numbers:
        typer.echo(f"no logs of SLURM jobs in {folder}")
    for number in numbers:
        last = tail(folder, number, 1)
        typer.echo(f"{number}  {last[0] if last else ''}")


def run_folder(workspace: Path | None, config: Path | None = None) -> Path:
    """Folder in which a run's driver is reached."""
    from etl.execution.driver import RUN_FOLDER

    return workspace_of(workspace, config) / RUN_FOLDER


def detach(config: Config, stages: Sequence[str] = ("annotate", "estimate", "merge")) -> None:
    """Submit this very command, without --detach, as a small batch job that drives the run.

    Raises
    ------
    ConfigError
        When the cluster isn't SLURM.
    etl.errors.XycdError
        What would end the run at once: better here than in a job's log, after a night in the queue.
    cluster.errors.SubmissionRejected
        With SLURM's words.
    """
    from cluster.slurm.detach import submit
    from etl.execution import steps
    from etl.store.workspace import Workspace

    if config.cluster.kind != "slurm":
        raise ConfigError(
            "A detached driver is a SLURM job.",
            f"cluster.kind = {config.cluster.kind!r}",
            "Set cluster.kind, or leave --detach out (a closed terminal doesn't end a run).",
        )
    steps.check(config, stages)
    with Workspace(config.workspace).writing():
        pass  # makes it a workspace before the job's script comes to lie there; refused while another run works in it
    arguments = ["-m", "etl.cli", *(word for word in sys.argv[1:] if word != "--detach")]
    job = submit(config.cluster, arguments, folder=config.workspace.resolve() / "run")
    typer.echo(f"driver submitted as job {job}; `xycd status -w {config.workspace}` shows it once it runs")


def check(config: Config) -> None:
    """Start one worker, look around there, run a partition, and print what was found."""
    from etl.execution.preflight import check as look

    text, problems = look(config)
    typer.echo(text)
    for problem in problems:
        typer.secho(f"problem: {problem}", fg="red", err=True)
    if problems:
        raise typer.Exit(1)
