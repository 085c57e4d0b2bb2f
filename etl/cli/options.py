"""Options that verbs share, and the form of a verb that takes the whole configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from etl.errors import ConfigError

if TYPE_CHECKING:
    from etl.config import Config

DatasetArgument = Annotated[
    str | None,
    typer.Argument(help="h36m, 3dpw, 3dhp, fit3d or folder. Default: all datasets of --config.", show_default=False),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file. Options override it.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder of the raw dataset.")]
WorkspaceOption = Annotated[Path | None, typer.Option("--workspace", "-w", help="Folder that holds all results.")]
ModelsOption = Annotated[str | None, typer.Option("--models", "-m", help="Model set (`xycd models list`).")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", "-n", help="Number of workers. Default: one per core or GPU.")
]
AnnotateWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", "-n", help="Number of processes if cluster.kind is local. Default: one per core, at most 8."
    ),
]
MergeWorkersOption = Annotated[
    int | None,
    typer.Option("--workers", "-n", help="Number of processes that write. Default: merge.workers, which is 1."),
]
HzOption = Annotated[
    int | None, typer.Option("--hz", help="Frames per second to use, where the dataset offers a choice.")
]
SubjectsOption = Annotated[str | None, typer.Option("--subjects", help="Only these subjects, e.g. S1,S5.")]
ActionsOption = Annotated[str | None, typer.Option("--actions", help="Only these actions, e.g. Directions,Walking.")]
CamerasOption = Annotated[str | None, typer.Option("--cameras", help="Only these cameras.")]
TrainOption = Annotated[str | None, typer.Option("--train", help="Fit3D: subjects of the train split, e.g. s03,s04.")]
TestOption = Annotated[str | None, typer.Option("--test", help="Fit3D: subjects of the test split, e.g. s10.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, as in TOML: --set estimate.batch=8", show_default=False),
]


VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Open every finished file instead of trusting its receipt.")
]


DetachOption = Annotated[
    bool, typer.Option("--detach", help="Drive the run from a small SLURM job instead of this terminal.")
]

SPLITS = ("train", "test")  # whose subjects can be chosen


@dataclass(frozen=True)
class Flags:
    """Options that are not part of the configuration.

    Parameters
    ----------
    verify : bool
        Open every finished file instead of trusting its receipt.
    detach : bool
        Drive the run from a SLURM job.
    """

    verify: bool = False
    detach: bool = False


def load_config(dataset: str | None, **options: Any) -> Config:
    """Return the configuration that the file and the options give."""
    from etl.config import load, parse_assignments

    several = ("subjects", "actions", "cameras", *SPLITS)
    names = {name: options[name].split(",") for name in several if options.get(name)}
    if dataset != "fit3d" and any(name in names for name in SPLITS):
        raise ConfigError(
            "Only fit3d takes --train and --test.", f"--train or --test for dataset {dataset}", "Leave them out."
        )
    chosen = {"root": _text(options.get("root")), "hz": options.get("hz"), **names}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if chosen and dataset is None:
        raise ConfigError(
            "--root, --hz and the filters need a dataset.", "no dataset is named", "Name it: xycd run h36m --root …"
        )
    overrides: dict[str, Any] = {
        "workspace": _text(options.get("workspace")),
        "models": {"set": options.get("models")},
        options.get("workers_section", "cluster"): {"workers": options.get("workers")},
    }
    if dataset is not None:
        overrides["datasets"] = {dataset: chosen}
    return load(options.get("config"), overrides, parse_assignments(options.get("set") or []), only=dataset)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def configured(
    app: typer.Typer,
    verb: str,
    text: str,
    act: Callable[[Config, Flags], None],
    *,
    workers_option: Any = WorkersOption,
    workers_section: Literal["cluster", "merge"] = "cluster",
) -> None:
    """Add a verb that takes the whole configuration. `--workers` sets `workers` of the section `workers_section`."""

    def command(
        dataset: DatasetArgument = None,
        config: ConfigOption = None,
        root: RootOption = None,
        workspace: WorkspaceOption = None,
        models: ModelsOption = None,
        workers: WorkersOption = None,
        hz: HzOption = None,
        subjects: SubjectsOption = None,
        actions: ActionsOption = None,
        cameras: CamerasOption = None,
        train: TrainOption = None,
        test: TestOption = None,
        set_: SetOption = None,
        verify: VerifyOption = False,
        detach: DetachOption = False,
    ) -> None:
        loaded = load_config(
            dataset,
            config=config,
            root=root,
            workspace=workspace,
            models=models,
            workers=workers,
            hz=hz,
            subjects=subjects,
            actions=actions,
            cameras=cameras,
            train=train,
            test=test,
            set=set_,
            workers_section=workers_section,
        )
        act(loaded, Flags(verify, detach))

    command.__annotations__["workers"] = workers_option  # each verb has its own meaning of workers
    app.command(verb, help=text)(command)


def workspace_of(given: Path | None, config: Path | None = None) -> Path:
    """Return the workspace given, else that of the configuration, else the default.

    Raises
    ------
    ConfigError
        When the configuration can't be read.
    """
    if given is not None:
        return given
    from etl.config import load

    return load(config).workspace
