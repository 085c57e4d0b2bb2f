"""The verbs about workers: status of a run, its number of workers, logs, and the preflight check of a cluster."""

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
        "Preflight check: start one worker where the run would, and report problems that would make the run fail.",
        lambda config, _: check(config),
    )


def status(
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every two seconds until the run ends.")] = False,
) -> None:
    """Show the status of a run, from any terminal: frames done and left, rate, time left, workers, failures."""
    from rich.console import Console

    from cluster.control import read_status
    from cluster.slurm.detach import pending_driver
    from etl.execution.status import pending_text, status_text

    folder = run_folder(workspace, config)
    while True:
        waiting = pending_driver(folder)
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
    """Change the number of workers of a run while it runs, from any terminal."""
    from cluster.control import send

    typer.echo(send(run_folder(workspace, config), "scale", target))


def stop(
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    now: Annotated[bool, typer.Option("--now", help="Don't finish what is running.")] = False,
) -> None:
    """Stop a run: finish what is running, then leave. The same `xycd run` continues later."""
    from cluster.control import send
    from cluster.slurm.detach import cancel_pending_driver

    folder = run_folder(workspace, config)
    job = cancel_pending_driver(folder)
    if job is not None:
        typer.echo(f"cancelled job {job}, the driver of the run, before it started")
        return
    typer.echo(send(folder, "stop", "now" if now else ""))


def logs(
    job: Annotated[str | None, typer.Argument(help="Number of a job; default: the last line of each job.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    lines: Annotated[int, typer.Option(min=1, help="Number of last lines to show.")] = 50,
) -> None:
    """Show the logs of a run's SLURM jobs."""
    from cluster.slurm.shared_folder import jobs_with_logs, log_tail, shared_folder_of_run

    folder = shared_folder_of_run(run_folder(workspace, config))
    if job is not None:
        typer.echo("\n".join(log_tail(folder, job, lines)) or f"no log of job {job} in {folder}")
        return
    numbers = jobs_with_logs(folder)
    if not numbers:
        typer.echo(f"no logs of SLURM jobs in {folder}")
    for number in numbers:
        last = log_tail(folder, number, 1)
        typer.echo(f"{number}  {last[0] if last else ''}")


def run_folder(workspace: Path | None, config: Path | None = None) -> Path:
    """Folder through which other terminals reach the run's driver."""
    from etl.execution.driver import RUN_FOLDER

    return workspace_of(workspace, config) / RUN_FOLDER


def detach(config: Config, stages: Sequence[str] = ("annotate", "estimate", "merge")) -> None:
    """Submit this command without --detach as a small batch job that drives the run.

    Raises
    ------
    ConfigError
        When the cluster isn't SLURM.
    etl.errors.XycdError
        When the run would fail at its start: a user should learn that now, not after a night in the queue.
    cluster.errors.SubmissionRejected
        With SLURM's message.
    """
    from cluster.slurm.detach import submit_driver
    from etl.execution.plan import check_run
    from etl.store.workspace import Workspace

    if config.cluster.kind != "slurm":
        raise ConfigError(
            "A detached driver must be a SLURM job.",
            f"cluster.kind is {config.cluster.kind!r}",
            "Set cluster.kind, or omit --detach (a closed terminal doesn't end a run).",
        )
    check_run(config, stages)
    with Workspace(config.workspace).writing():
        pass  # make it a workspace before the script is written there; refused while another run works in it
    arguments = ["-m", "etl.cli", *(word for word in sys.argv[1:] if word != "--detach")]
    job = submit_driver(config.cluster, arguments, folder=config.workspace.resolve() / "run")
    typer.echo(f"driver submitted as job {job}; `xycd status -w {config.workspace}` shows it once it runs")


def check(config: Config) -> None:
    """Check one worker, run the start of a partition there, and print the report and the problems."""
    from etl.execution import preflight

    text, problems = preflight.check_worker(config)
    typer.echo(text)
    for problem in problems:
        typer.secho(f"problem: {problem}", fg="red", err=True)
    if problems:
        raise typer.Exit(1)
