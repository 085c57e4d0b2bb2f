"""The verbs that work on data: run, annotate, estimate, merge, plan and demo."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.cluster import detach
from etl.cli.options import AnnotateWorkersOption, Flags, MergeWorkersOption, WorkersOption, configured

if TYPE_CHECKING:
    from etl.config import Config


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    configured(
        app,
        "run",
        "Annotate, estimate and merge: make training files from the raw dataset.",
        run_stages("annotate", "estimate", "merge"),
    )
    configured(
        app,
        "annotate",
        "Read the raw dataset: 2D and 3D joints in camera coordinates, cameras and splits.",
        run_stages("annotate"),
        workers_option=AnnotateWorkersOption,
    )
    configured(
        app,
        "estimate",
        "Detect people, poses and depth in all annotated frames. Annotates first where needed.",
        run_stages("estimate"),
    )
    configured(
        app,
        "merge",
        "Join features with annotations and write the training files.",
        run_stages("merge"),
        workers_option=MergeWorkersOption,
        workers_section="merge",
    )
    configured(
        app,
        "plan",
        "Show what a run would do: frames, partitions done and missing, models, outputs, disk. Starts nothing.",
        print_plan,
    )
    app.command()(demo)


def run_stages(*stages: str) -> Callable[[Config, Flags], None]:
    """Return a verb that runs stages, here or in a job of its own."""

    def act(config: Config, flags: Flags) -> None:
        from etl import pipeline
        from etl.cli.progress_bar import ProgressBar
        from etl.cli.terminal import continue_in_log
        from etl.execution.driver import RUN_FOLDER

        if flags.detach:
            detach(config, stages)
            return
        with continue_in_log(config.workspace / RUN_FOLDER / "driver.log"):
            with ProgressBar() as bar:
                summaries = pipeline.run(config, stages=stages, verify=flags.verify, report=bar)
            for summary in summaries:
                typer.echo(summary.text())
            if any(summary.troubled for summary in summaries):
                typer.echo("Some frames or files failed: `xycd failures` lists each with its reason.")
        if any(summary.troubled or summary.stopped for summary in summaries):
            raise typer.Exit(1)

    return act


def print_plan(config: Config, flags: Flags) -> None:
    """Print what a run would do."""
    from etl.execution.plan import plan

    typer.echo(plan(config, verify=flags.verify))


class DemoDataset(Enum):
    """The miniatures that `xycd demo` renders."""

    H36M = "h36m"
    THREEDPW = "3dpw"
    MPI_INF_3DHP = "3dhp"
    FIT3D = "fit3d"
    ALL = "all"


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Folder for the raw miniatures, the workspace and the pictures.")
    ] = Path("demo"),
    dataset: Annotated[DemoDataset, typer.Option(help="The miniature to render, or all four.")] = DemoDataset.H36M,
    frames: Annotated[
        int | None,
        typer.Option(
            min=2, help="Frames per sequence. Default: 50 for Human3.6M, fewer for the others.", show_default=False
        ),
    ] = None,
    workers: WorkersOption = None,
) -> None:
    """Render miniature datasets with known truth, run the whole pipeline on them, and measure the result.

    The exit status is 1 where the result misses its bounds.
    """
    from etl.cli.progress_bar import ProgressBar
    from etl.demo.run import run_demo

    chosen = [one.value for one in DemoDataset if one is not DemoDataset.ALL and dataset in (one, DemoDataset.ALL)]

    with ProgressBar() as bar:
        result = run_demo(folder, chosen, frames=frames, workers=workers, report=bar)
    typer.echo(result.text())
    missed = result.missed()
    for text in missed:
        typer.secho(f"not good enough: {text}", fg="red", err=True)
    if missed:
        raise typer.Exit(1)
