"""The verbs that look at results: query, failures, report and show. Heavy imports happen inside the verbs."""

from __future__ import annotations

import sys
import webbrowser
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.options import ConfigOption, WorkspaceOption, workspace_of
from etl.errors import ConfigError

RawOption = Annotated[
    Path | None, typer.Option("--root", help="Folder of the raw dataset, if it has moved since the run.")
]
DepthOption = Annotated[
    bool, typer.Option("--depth/--no-depth", help="Run the models again on the frames shown, to get their depth maps.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for verb in (query, failures, report, show):
        app.command()(verb)


class GroupBy(Enum):
    """Unit of a line of a query's table."""

    SEQUENCE = "sequence"
    ACTION = "action"
    SUBJECT = "subject"
    CAMERA = "camera"
    SPLIT = "split"
    JOINT = "joint"


def query(
    dataset: Annotated[str | None, typer.Argument(help="Dataset; optional if the workspace has only one.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject, or a pattern such as 'S*'. Repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Action, or a pattern.")] = None,
    subaction: Annotated[list[int] | None, typer.Option(help="Number of the repetition.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Camera, or a pattern.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split: train, val, …")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only frames of this status: ok, no_person, …")] = None,
    frames: Annotated[str | None, typer.Option(help="Only frames FIRST:LAST or FIRST:LAST:STEP, e.g. 0:499.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only joints that meet this condition, e.g. \"confidence < 0.3 and joint == 'head'\"."),
    ] = None,
    group_by: Annotated[GroupBy, typer.Option(help="Unit of a line of the table.")] = GroupBy.SEQUENCE,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Write the frames to FILE.nc, .zarr, .csv or .parquet instead of a table."),
    ] = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="With --to: add the annotations.")] = False,
) -> None:
    """Summarise features by subject and action, during a run or after it."""
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

        print_table(summary_table(selected, group_by.value))
    typer.echo(selected.completeness())


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
        print_table(found)


def report(
    dataset: Annotated[str | None, typer.Argument(help="Dataset; optional if the workspace has only one.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The HTML file. Default: <workspace>/<dataset>/report.html.")
    ] = None,
    root: RawOption = None,
    depth: DepthOption = True,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file that shows whether the results are right. It opens offline, during a run and after it."""
    from etl.report.data import the_only_dataset
    from etl.report.page import write_report
    from etl.store.workspace import Workspace

    space = workspace_of(workspace, config)
    name = dataset or the_only_dataset(Workspace(space))
    path = write_report(space, name, to or space / name / "report.html", raw=root, depth=depth)
    typer.echo(path)
    if open_:
        webbrowser.open(path.resolve().as_uri())


def show(
    what: Annotated[str, typer.Argument(help="An image file, or a sequence such as S1/Directions/1/54138969.")],
    frame: Annotated[int | None, typer.Argument(help="Frame of the sequence, from 0.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    to: Annotated[Path | None, typer.Option("--to", help="The picture (.png, .jpg) or the video (.mp4).")] = None,
    video: Annotated[bool, typer.Option("--video", help="All frames of the sequence, as an H.264 video.")] = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Optional if the workspace has only one.")] = None,
    root: RawOption = None,
    models: Annotated[str, typer.Option("--models", "-m", help="Model set to run on an image file.")] = "embedded",
    depth: DepthOption = True,
    around: Annotated[
        bool, typer.Option("--around/--whole", help="Show only the part around the people, enlarged.")
    ] = False,
) -> None:
    """Draw boxes, skeletons, neighbourhoods and depth on one frame, or on a sequence as a video."""
    from etl.config import ModelSettings
    from etl.report.show import default_target, find_sequence, show_frame, show_image, show_video

    target = to or default_target(what, frame, video=video)
    if Path(what).is_file():
        if video or frame is not None:
            rule = "An image file takes neither a frame number nor --video; a sequence does."
            raise ConfigError(
                rule, f"{what} is an image file, with a frame or --video", f"For example: xycd show {what}"
            )
        people = show_image(Path(what), target, ModelSettings(set=models), around=around)
        typer.echo(f"{target}: {people} {'person' if people == 1 else 'people'}")
        return
    stored = find_sequence(workspace_of(workspace, config), what, dataset, root)
    if video:
        typer.echo(f"{target}: {show_video(stored, target)} frames")
        return
    if frame is None:
        rule = "A sequence needs a frame number or --video."
        raise ConfigError(rule, "neither a frame nor --video is given", f"For example: xycd show {what} 0")
    missing = show_frame(stored, frame, target, depth=depth, around=around)
    typer.echo(f"{target}{f' ({missing})' if missing else ''}")


def print_table(frame: Any) -> None:
    """Print a pandas table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in frame.columns:
        numeric = frame[name].dtype.kind in "fiu"
        last = name == frame.columns[-1]  # reasons are long and may wrap; names stay whole
        table.add_column(str(name), justify="right" if numeric else "left", no_wrap=not last, overflow="fold")
    for row in frame.itertuples(index=False):
        cells = [f"{v:,.3g}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in row]
        table.add_row(*map(Text, cells))  # no markup: reasons and names may hold brackets
    # A pipe gets every column in full.
    (Console() if sys.stdout.isatty() else Console(width=400)).print(table)
