"""The command line. Heavy imports happen inside the verbs, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from etl.cli import cluster as cli_cluster
from etl.cli import results as cli_results
from etl.cli.options import (
    AnnotateWorkersOption,
    ConfigOption,
    Flags,
    MergeWorkersOption,
    SetOption,
    WorkersOption,
    WorkspaceOption,
    configured,
    workspace_of,
)
from etl.errors import XycdError

if TYPE_CHECKING:
    from etl.config import Config
    from etl.stages.progress import Terminal

INTERRUPTED: Final = 130  # exit status after Ctrl-C

app = typer.Typer(
    name="xycd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Turn raw 3D human pose datasets into training-ready XYCD files: 2D joints (X, Y), confidence (C) and metric
depth (D) beside the ground truth.

Try it:      xycd demo demo          renders a small Human3.6M, runs everything on it, and says how good the result is
Real data:   xycd run h36m --root /data/h36m --workspace /scratch/xycd
Images:      xycd run folder --root pictures --workspace /scratch/pictures

The same command again goes on where it stopped. `xycd plan …` says what a run would do, and starts nothing.""",
)
models_app = typer.Typer(no_args_is_help=True, help="The model sets, and their files.")
app.add_typer(models_app, name="models")


def _runner(*stages: str) -> Callable[[Config, Flags], None]:
    def act(config: Config, flags: Flags) -> None:
        from etl import pipeline
        from etl.cli.terminal import outliving_the_terminal
        from etl.execution.driver import RUN_FOLDER

        if flags.detach:
            cli_cluster.detach(config, stages)
            return
        with outliving_the_terminal(config.workspace / RUN_FOLDER / "driver.log"):
            with _terminal() as terminal:
                summaries = pipeline.run(config, stages=stages, verify=flags.verify, report=terminal)
            for summary in summaries:
                typer.echo(summary.text())
            if any(summary.troubled for summary in summaries):
                typer.echo("Some frames or files failed: `xycd failures` lists each with its reason.")
        if any(summary.troubled or summary.stopped for summary in summaries):
            raise typer.Exit(1)

    return act


def _plan(config: Config, flags: Flags) -> None:
    from etl.execution.plan import plan

    typer.echo(plan(config, verify=flags.verify))


def _terminal() -> Terminal:
    from etl.stages.progress import Terminal

    return Terminal()


configured(
    app,
    "run",
    "Annotate, estimate and merge: from the raw dataset to the files to train with.",
    _runner("annotate", "estimate", "merge"),
)
configured(
    app,
    "annotate",
    "Read the raw dataset: 2D and 3D joints in camera coordinates, cameras and splits.",
    _runner("annotate"),
    workers_option=AnnotateWorkersOption,
)
configured(
    app,
    "estimate",
    "Detect people, poses and depth in all annotated frames; annotates first where needed.",
    _runner("estimate"),
)
configured(
    app,
    "merge",
    "Join features with annotations and write the files to train with.",
    _runner("merge"),
    workers_option=MergeWorkersOption,
    whose_workers="merge",
)
configured(
    app,
    "plan",
    "Say what a run would do: frames, partitions done and missing, models, outputs, disk. Starts nothing.",
    _plan,
)


cli_cluster.register(app)


class GroupBy(Enum):
    """What a query's table has a line for."""

    SEQUENCE = "sequence"
    ACTION = "action"
    SUBJECT = "subject"
    CAMERA = "camera"
    SPLIT = "split"
    JOINT = "joint"


@app.command()
def query(
    dataset: Annotated[str | None, typer.Argument(help="Dataset; needless if the workspace has only one.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject, or a pattern such as 'S*'; repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Action, or a pattern.")] = None,
    subaction: Annotated[list[int] | None, typer.Option(help="Number of the repetition.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Camera, or a pattern.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split: train, val, …")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only frames of this status: ok, no_person, …")] = None,
    frames: Annotated[str | None, typer.Option(help="Only frames FIRST:LAST or FIRST:LAST:STEP, e.g. 0:499.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Only joints that fulfil this, e.g. \"confidence < 0.3 and joint == 'head'\".")
    ] = None,
    group_by: Annotated[GroupBy, typer.Option(help="A line of the table for each …")] = GroupBy.SEQUENCE,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the frames to FILE.nc, .zarr, .csv or .parquet instead.")
    ] = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="With --to: joined with the annotations.")] = False,
) -> None:
    """Summarise features by subject and action, finished or not; works while a run goes on."""
    from etl.results.features import open_features
    from etl.results.selection import parse_frames

    selected = open_features(workspace_of(workspace, config), dataset).sel(
        subject=subject,
        action=action,
        subaction=subaction,
        camera=camera,
        split=split,
        status=status,
        frame=None if frames is None else parse_frames(frames),
        where=where,
    )
    if to is not None:
        from etl.results.export import write_rows

        write_rows(selected, to, annotations=annotations)
        typer.echo(to)
    else:
        from etl.results.tables import summary_table

        _print_table(summary_table(selected, group_by.value))
    typer.echo(selected.completeness())


@app.command()
def failures(
    dataset: Annotated[str | None, typer.Argument(help="Dataset; default: all in the workspace.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the list to FILE.csv instead.")] = None,
) -> None:
    """List every file and frame that isn't ok, with its reason."""
    from etl.store.failures import list_failures
    from etl.store.workspace import write_atomically

    found = list_failures(workspace_of(workspace, config), dataset)
    if to is not None:
        write_atomically(to, found.to_csv(index=False).encode())
        typer.echo(f"{len(found):,} failures in {to}")
    elif found.empty:
        typer.echo("Nothing failed.")
    else:
        _print_table(found)


@models_app.command("list")
def models_list() -> None:
    """The model sets: what they are, their licences, and whether their files are here."""
    from etl.models import registry

    _print_table(registry.table())


@models_app.command("fetch")
def models_fetch(
    name: Annotated[
        str | None, typer.Argument(help="Model set; default: that of --config, else embedded.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the files, for sites without network.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to put them into; default: models.cache of --config, else the user's.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Put the files that a model set's options name into the model cache, verified by SHA-256.

    Safe when two processes do it at once. Another size: --set models.options.pose=rtmpose-m
    """
    from etl.config import load, parse_assignments
    from etl.models import registry

    models = load(config, {"models": {"set": name}}, parse_assignments(set_ or [])).models
    for path in registry.fetch(models.set, cache=cache or models.cache, source=source, options=models.options):
        typer.echo(path)


@app.command()
def info(workspace: WorkspaceOption = None, config: ConfigOption = None) -> None:
    """Versions, devices and model files of this machine: what to put into a bug report."""
    from etl.cli.info import describe

    # Without either it is about the machine only, not about a default workspace that nobody named.
    typer.echo(describe(workspace_of(workspace, config) if workspace or config else None))


class DemoDataset(Enum):
    """What `xycd demo` can render."""

    H36M = "h36m"
    THREEDPW = "3dpw"
    MPI_INF_3DHP = "3dhp"
    FIT3D = "fit3d"
    ALL = "all"


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for raw miniatures, workspace and pictures.")] = Path("demo"),
    dataset: Annotated[DemoDataset, typer.Option(help="Which miniature, or all four.")] = DemoDataset.H36M,
    frames: Annotated[
        int | None,
        typer.Option(
            min=2, help="Frames a sequence; default: 50 of Human3.6M, fewer of the others.", show_default=False
        ),
    ] = None,
    workers: WorkersOption = None,
) -> None:
    """Render miniature datasets with known truth, run the whole pipeline on them, and measure the result.

    Ends with status 1 where the result isn't as good as it must be.
    """
    from etl.demo.run import run_demo

    chosen = [one.value for one in DemoDataset if one is not DemoDataset.ALL and dataset in (one, DemoDataset.ALL)]

    with _terminal() as terminal:
        result = run_demo(folder, chosen, frames=frames, workers=workers, report=terminal)
    typer.echo(result.text())
    missed = result.missed()
    for text in missed:
        typer.secho(f"not good enough: {text}", fg="red", err=True)
    if missed:
        raise typer.Exit(1)


cli_results.register(app)


def _print_table(frame: Any) -> None:
    """A pandas table on the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in frame.columns:
        numeric = frame[name].dtype.kind in "fiu"
        last = name == frame.columns[-1]  # reasons are long; names must stay whole
        table.add_column(str(name), justify="right" if numeric else "left", no_wrap=not last, overflow="fold")
    for row in frame.itertuples(index=False):
        cells = [f"{v:,.3g}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in row]
        table.add_row(*map(Text, cells))  # as they are: reasons and names may hold brackets
    # Into a pipe goes every column in full, not what would fit a terminal.
    (Console() if sys.stdout.isatty() else Console(width=400)).print(table)


def main() -> None:
    """Run the command line; errors that a user can fix are shown without a traceback."""
    try:
        app()
    except XycdError as error:
        _refuse(error.rule, error.found, error.fix)
    except OSError as error:
        if error.filename is None:  # no file's fault
            raise
        denied = isinstance(error, PermissionError)
        fix = (
            "You may not: ask its owner, or name another." if denied else "Check the path, and that the disk has room."
        )
        _refuse(
            "Files and folders that a command needs can be read and written.",
            f"{error.filename}: {error.strerror}",
            fix,
        )
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has met Ctrl-C
            typer.echo("Interrupted. The same command goes on from here.", err=True)
        raise


def _refuse(rule: str, found: str, fix: str) -> NoReturn:
    typer.secho(f"error: {rule}", fg="red", err=True)
    typer.echo(f"  found: {found}\n  {fix}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
