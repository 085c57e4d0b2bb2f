"""The verbs of `xycd models`: list and fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etl.cli.options import ConfigOption, SetOption
from etl.cli.results import print_table

app = typer.Typer(no_args_is_help=True, help="List the model sets and fetch their files.")


@app.command("list")
def models_list() -> None:
    """List the model sets: what they are, their licences, and whether their files are here."""
    from etl.models import registry

    print_table(registry.table())


@app.command("fetch")
def models_fetch(
    name: Annotated[
        str | None, typer.Argument(help="Model set. Default: that of --config, else embedded.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the files, for sites without a network.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the files. Default: models.cache of --config, else the user's cache."),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Fetch the files of a model set into the model cache and verify them by SHA-256.

    Two processes may do this at once. For another size: --set models.options.pose=rtmpose-m
    """
    from etl.config import load, parse_assignments
    from etl.models import registry

    models = load(config, {"models": {"set": name}}, parse_assignments(set_ or [])).models
    for path in registry.fetch(models.set, cache=cache or models.cache, source=source, options=models.options):
        typer.echo(path)
