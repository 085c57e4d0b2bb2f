"""The verbs that look at results: report and show. Heavy imports happen inside, as in etl.cli."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from etl.cli.options import ConfigOption, WorkspaceOption, workspace_of
from etl.errors import ConfigError

RawOption = Annotated[
    Path | None, typer.Option("--root", help="Folder of the raw dataset, if it has moved since the run.")
]
DepthOption = Annotated[
    bool, typer.Option("--depth/--no-depth", help="Run the models again on what is shown, for the depth maps.")
]


def report(
    dataset: Annotated[str | None, typer.Argument(help="Dataset; needless if the workspace has only one.")] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The HTML file; default: <workspace>/<dataset>/report.html.")
    ] = None,
    root: RawOption = None,
    depth: DepthOption = True,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file that shows whether the results are right; readable offline, during a run and after it."""
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
    dataset: Annotated[str | None, typer.Option("--dataset", help="Needless if the workspace has only one.")] = None,
    root: RawOption = None,
    models: Annotated[str, typer.Option("--models", "-m", help="Model set for an image file.")] = "embedded",
    depth: DepthOption = True,
    around: Annotated[
        bool, typer.Option("--around/--whole", help="Only the part around the people, enlarged.")
    ] = False,
) -> None:
    """Draw boxes, skeletons, neighbourhoods and depth on one frame, or on a sequence as a video."""
    from etl.config import ModelSettings
    from etl.report.show import default_target, find_sequence, show_frame, show_image, show_video

    target = to or default_target(what, frame, video=video)
    if Path(what).is_file():
        if video or frame is not None:
            rule = "A frame or a video is asked of a sequence, not of an image."
            raise ConfigError(rule, f"{what} with a frame or --video", f"For instance: xycd show {what}")
        people = show_image(Path(what), target, ModelSettings(set=models), around=around)
        typer.echo(f"{target}: {people} {'person' if people == 1 else 'people'}")
        return
    stored = find_sequence(workspace_of(workspace, config), what, dataset, root)
    if video:
        typer.echo(f"{target}: {show_video(stored, target)} frames")
        return
    if frame is None:
        rule = "A sequence is shown one frame at a time, or as a video."
        raise ConfigError(rule, "neither a frame nor --video", f"For instance: xycd show {what} 0")
    missing = show_frame(stored, frame, target, depth=depth, around=around)
    typer.echo(f"{target}{f' ({missing})' if missing else ''}")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(report)
    app.command()(show)
