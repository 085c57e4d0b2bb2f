"""The command line: all verbs together, and how errors are shown."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

import typer

from etl.cli import cluster, models, results, run
from etl.cli.info import info
from etl.errors import XycdError

INTERRUPTED: Final = 130  # exit status after Ctrl-C

app = typer.Typer(
    name="xycd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Make XYCD training files from raw 3D human pose datasets: 2D joints (X, Y), confidence (C) and metric
depth (D) beside the ground truth.

Try it:      xycd demo demo          renders a small Human3.6M, runs everything on it, and measures the result
Real data:   xycd run h36m --root /data/h36m --workspace /scratch/xycd
Images:      xycd run folder --root pictures --workspace /scratch/pictures

The same command again resumes a run that stopped. `xycd plan …` shows what a run would do, and starts nothing.""",
)
app.add_typer(models.app, name="models")
for group in (run, cluster, results):
    group.register(app)
app.command()(info)


def main() -> None:
    """Run the command line. Errors that a user can fix are shown without a traceback."""
    try:
        app()
    except XycdError as error:
        _refuse(error.rule, error.found, error.fix)
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        denied = isinstance(error, PermissionError)
        fix = (
            "Ask its owner for access, or name another."
            if denied
            else "Check the path, and the free space of its disk."
        )
        _refuse(
            "A command must be able to read and write the files and folders that it needs.",
            f"{error.filename}: {error.strerror}",
            fix,
        )
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has caught Ctrl-C
            typer.echo("Interrupted. The same command resumes from here.", err=True)
        raise


def _refuse(rule: str, found: str, fix: str) -> NoReturn:
    typer.secho(f"error: {found}", fg="red", err=True)
    typer.echo(f"  {rule}\n  {fix}", err=True)
    sys.exit(2)
