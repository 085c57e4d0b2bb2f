"""Options that verbs share, and the verb that takes the whole configuration."""

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
    typer.Argument(help="h36m, 3dpw, 3dhp, fit3d or folder; without it, all datasets of --config.", show_default=False),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file; options win over it.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Folder of the raw dataset.")]
WorkspaceOption = Annotated[Path | None, typer.Option("--workspace", "-w", help="Folder that holds all results.")]
ModelsOption = Annotated[str | None, typer.Option("--models", "-m", help="Model set (`xycd models list`).")]
WorkersOption = Annotated[int | None, typer.Option("--workers", "-n", help="Workers; default: one per core or GPU.")]
AnnotateWorkersOption = Annotated[
    int | None,
    typer.Option("--workers", "-n", help="Processes, where cluster.kind is local; default: one per core, at most 8."),
]
MergeWorkersOption = Annotated[
    int | None, typer.Option("--workers", "-n", help="Processes that write; default: merge.workers, which is one.")
]
HzOption = Annotated[
    int | None, typer.Option("--hz", help="Frames a second to use, where the dataset offers a choice.")
]
SubjectsOption = Annotated[str | None, typer.Option("--subjects", help="Only these, e.g. S1,S5.")]
ActionsOption = Annotated[str | None, typer.Option("--actions", help="Only these, e.g. Directions,Walking.")]
CamerasOption = Annotated[str | None, typer.Option("--cameras", help="Only these.")]
TrainOption = Annotated[str | None, typer.Option("--train", help="Fit3D: subjects of the split train, e.g. s03,s04.")]
TestOption = Annotated[str | None, typer.Option("--test", help="Fit3D: subjects of the split test, e.g. s10.")]
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

SPLITS = ("train", "test")  # that a dataset lets choose


@dataclass(frozen=True)
class Flags:
    """Options that aren't configuration.

    Parameters
    ----------
    verify : bool
        Open every finished file.
    detach : bool
        Drive the run from a batch job.
    """

    verify: bool = False
    detach: bool = False


def load_config(dataset: str | None, **options: Any) -> Config:
    """Configuration from the file and the options that all stages share."""
    from etl.config import load, parse_assignments

    several = ("subjects", "actions", "cameras", *SPLITS)
    names = {name: options[name].split(",") for name in several if options.get(name)}
    if dataset != "fit3d" and any(name in names for name in SPLITS):
        raise ConfigError("--train and --test choose the splits of fit3d.", f"dataset {dataset}", "Leave them out.")
    chosen = {"root": _text(options.get("root")), "hz": options.get("hz"), **names}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if chosen and dataset is None:
        raise ConfigError(
            "--root, --hz and the filters belong to one dataset.", "no dataset named", "Name it: xycd run h36m --root …"
        )
    overrides: dict[str, Any] = {
        "workspace": _text(options.get("workspace")),
        "models": {"set": options.get("models")},
        options.get("whose_workers", "cluster"): {"workers": options.get("workers")},
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
    whose_workers: Literal["cluster", "merge"] = "cluster",
) -> None:
    """Add a verb that takes the whole configuration; `--workers` is the setting of the section `whose_workers`."""

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
            whose_workers=whose_workers,
        )
        act(loaded, Flags(verify, detach))

    command.__annotations__["workers"] = workers_option  # what a worker is differs between verbs, and so does the help
    app.command(verb, help=text)(command)


def workspace_of(given: Path | None, config: Path | None = None) -> Path:
    """The workspace that was named, else that of the configuration, else the default.

    Raises
    ------
    ConfigError
        When the configuration can't be read.
    """
    if given is not None:
        return given
    from etl.config import load

    return load(config).workspace
