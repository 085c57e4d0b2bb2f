"""What a user says about workers: frozen, checked models, safe to write into a batch script.

A line `#SBATCH ...` is read by sbatch and the rest by a shell, as the user. Everything that enters a script is
matched against a narrow form here, so that a profile passed around in a group can't smuggle a command in where a
name belongs. `prologue` is the one place for shell code, and `xycd plan` prints it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_WALLTIME: Final = re.compile(
    r"(?:(?P<days>\d+)-(?P<dh>\d{1,2})(?::(?P<dm>\d{1,2})(?::(?P<ds>\d{1,2}))?)?"
    r"|(?P<h>\d+):(?P<hm>\d{1,2}):(?P<hs>\d{1,2})|(?P<m>\d+):(?P<ms>\d{1,2})|(?P<minutes>\d+))"
)
_MEMORY: Final = re.compile(r"([1-9]\d{0,6})([KMGT])")
_DIRECTIVE: Final = re.compile(r"--[a-z][a-z0-9-]*(=[\w@%+:,./~&|*!()\[\]-]+)?", re.ASCII)
_OURS: Final = {  # directives that would break the matching of jobs and workers, or that have a key of their own
    "account", "array", "chdir", "clusters", "comment", "constraint", "cpus-per-task", "error", "exclude", "gres",
    "job-name", "mem", "nodes", "ntasks", "no-requeue", "open-mode", "output", "parsable", "partition", "qos",
    "requeue", "signal", "test-only", "time", "wait", "wrap",
}  # fmt: skip
_GPU_DIRECTIVES: Final = ("--gpus", "--gpus-per-node", "--gpus-per-task")  # the same for one task on one node


def _matching(pattern: str, rule: str) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{rule}, not {value!r}")
        return value

    return AfterValidator(check)


def walltime_seconds(text: str) -> int:
    """Seconds of a SLURM time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises
    ------
    ValueError
        Where the text has none of these forms, or is zero.
    """
    found = _WALLTIME.fullmatch(text)
    if not found or not text.isascii():
        raise ValueError(f"a walltime is minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, not {text!r}")
    part = {name: int(value or 0) for name, value in found.groupdict().items()}
    hours = part["dh"] + part["h"]
    minutes = part["dm"] + part["hm"] + part["m"] + part["minutes"]
    seconds = part["days"] * 86400 + hours * 3600 + minutes * 60 + part["ds"] + part["hs"] + part["ms"]
    if seconds <= 0:
        raise ValueError(f"a walltime is longer than zero, not {text!r}")
    return seconds


def memory_bytes(text: str) -> int:
    """Bytes of a SLURM memory size: a whole number and K, M, G or T (powers of 1024).

    Raises
    ------
    ValueError
        Where the text has another form.
    """
    found = _MEMORY.fullmatch(text)
    if not found or not text.isascii():
        raise ValueError(f"a memory size is a whole number and K, M, G or T, such as 16G, not {text!r}")
    return int(found[1]) * 1024 ** (1 + "KMGT".index(found[2]))


def _walltime(value: str) -> str:
    walltime_seconds(value)
    return value


def _memory(value: str) -> str:
    memory_bytes(value)
    return value


def _one_line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"a line has no line breaks or control characters, unlike {value!r}")
    return value


def _directive(value: str) -> str:
    if not _DIRECTIVE.fullmatch(value):
        raise ValueError(f"a directive is --name or --name=value, without spaces or quotes, not {value!r}")
    name = value[2:].split("=")[0]
    ours = [option for option in sorted(_OURS) if option.startswith(name)]  # sbatch takes any unambiguous beginning
    if ours:
        raise ValueError(f"--{ours[0]} has a key of its own or is set by xycd; remove --{name} from directives")
    return value


def gres_gpus(gres: str | None) -> int:
    """GPUs of a job with this gres: gpu, gpu:2, gpu:a100:2, shard:1,gpu:2; 0 without any."""
    count = 0
    for part in (gres or "").split(","):
        fields = part.split(":")
        if fields[0] == "gpu":
            count += int(fields[-1]) if fields[-1].isdigit() else 1
    return count


def node_path(text: str, name: str) -> str:
    """Return `text` if it is the path of a folder on a node, in which variables stand for what the node sets them to.

    Raises
    ------
    ValueError
        Naming the setting.
    """
    if not re.fullmatch(r"\$?[\w./${}-]+", text, re.ASCII):
        raise ValueError(f"{name} is a path, with variables such as $TMPDIR, not {text!r}")
    return text


def _python(value: str) -> str:
    words = value.split(" ")
    if value.startswith("-") or not all(re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII) for word in words):
        raise ValueError(f"an interpreter is words of letters, digits and @%+=:,./_-, not {value!r}")
    return value


def safe_path(value: Path) -> Path:
    """Return `value` if SLURM and a shell read it as one plain word.

    Raises
    ------
    ValueError
        Where it holds a character that either gives a meaning to (spaces, quotes, %, $, ...).
    """
    text = str(value)
    if "%" in text or "~" in text or shlex.quote(text) != text:
        raise ValueError(f"a folder of jobs has letters, digits and @+=:,./_- in its path only, not {text!r}")
    return value


def port_range(text: str) -> tuple[int, int]:
    """First and last port of "8000:8100" or "8000"."""
    first, _, last = text.partition(":")
    low, high = int(first), int(last or first)
    if not 1024 <= low <= high <= 65535:
        raise ValueError(f"ports lie between 1024 and 65535, lower first, not {text!r}")
    return low, high


def _ports(value: str) -> str:
    if not re.fullmatch(r"\d{4,5}(:\d{4,5})?", value, re.ASCII):
        raise ValueError(f"ports are FIRST:LAST or one number, not {value!r}")
    port_range(value)
    return value


def _lines(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+:-]*"
Name = Annotated[str, _matching(_NAME, "a name has letters, digits and _.@+:- only")]
Names = Annotated[str, _matching(rf"{_NAME}(,{_NAME})*", "names have letters, digits and _.@+:-, comma between them")]
Constraint = Annotated[
    str,
    _matching(r"[A-Za-z0-9_(\[!][A-Za-z0-9_.&|*!,()\[\]-]*", "a constraint has letters, digits and _.&|*!,()[]- only"),
]
Nodes = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "nodes are like n1,n[3-5]")]
Gres = Annotated[
    str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_.,:-]+)?", "gres is like gpu:1 or gpu:a100:1")
]
Interface = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,31}", "an interface is like ib0 or eth0")]
Dashboard = Annotated[str, _matching(r"[A-Za-z0-9_.-]*:\d{1,5}", "a dashboard address is like 127.0.0.1:8787")]
Walltime = Annotated[str, AfterValidator(_walltime)]
Memory = Annotated[str, AfterValidator(_memory)]
Line = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_lines)]
Directive = Annotated[str, AfterValidator(_directive)]
Directives = Annotated[tuple[Directive, ...], BeforeValidator(_lines)]
Python = Annotated[str, AfterValidator(_python)]
Folder = Annotated[Path, AfterValidator(safe_path)]
Ports = Annotated[str, AfterValidator(_ports)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class LocalConfig(_Frozen):
    """Workers on this machine."""

    gpus: Literal["auto", "none"] | tuple[int, ...] = Field(
        "auto", description="GPUs to use, one worker each; auto: all that are visible, if the models use any"
    )


class DriverConfig(_Frozen):
    """The small batch job that holds the driver under `--detach`."""

    partition: Names | None = Field(None, description="None: the workers' partition")
    cpus: PositiveInt = Field(2, description="CPU cores of that job")
    memory: Memory = Field("4G", description="of that job")
    walltime: Walltime = Field("2-00:00:00", description="of the whole run")
    gres: Gres | None = Field(None, description="where the partition gives no job without, such as gpu:1")
    directives: Directives = Field((), description="further sbatch options of that job")


class SlurmConfig(_Frozen):
    """Jobs that SLURM runs, each with one worker (or one worker a GPU on sites that give whole nodes only)."""

    partition: Names | None = Field(None, description="one, or several with commas; None: the site's default")
    account: Name | None = Field(None, description="what the time is charged to; None: your default account")
    qos: Name | None = Field(None, description="quality of service; None: the site's default")
    constraint: Constraint | None = Field(None, description="features that a node must have, such as a100|h100")
    exclude: Nodes | None = Field(None, description="nodes to avoid, such as n1,n[3-5]")
    gres: Gres | None = Field("gpu:1", description="None for CPU jobs")
    cpus: PositiveInt = Field(4, description="CPU cores a job")
    memory: Memory = Field("16G", description="a job")
    walltime: Walltime = Field("04:00:00", description="a job; workers leave in time and are replaced")
    workers_per_job: PositiveInt = Field(1, description="worker processes a job; the job's GPUs are dealt out to them")
    prologue: Lines = Field((), description="shell lines before the worker starts: modules, conda activation, ...")
    directives: Directives = Field((), description="further sbatch options, such as --reservation=night")
    python: Python | None = Field(
        None, description="interpreter on the nodes, such as `apptainer exec --nv image.sif python`; None: this one"
    )
    interface: Interface | None = Field(None, description="network interface of the nodes, such as ib0")
    scheduler_interface: Interface | None = Field(
        None, description="the login node's, where its name differs; without either, the one that leads to slurmctld"
    )
    scheduler_ports: Ports | None = Field(None, description="FIRST:LAST; one free port of these is taken")
    worker_ports: Ports | None = Field(None, description="FIRST:LAST, for sites with a firewall between nodes")
    tls: bool = Field(True, description="without it, everyone who reaches the port runs code as you")
    folder: Folder | None = Field(
        None, description="on shared disk; gets a private folder of your own; None: inside the workspace"
    )
    scratch: Line | None = Field(None, description="node-local folder for the workers' files, such as $TMPDIR")
    drain: PositiveInt = Field(300, description="seconds before the walltime at which workers leave at the latest")
    startup: PositiveInt = Field(600, description="seconds a running job has until its worker must have joined")
    give_up_after: PositiveInt = Field(
        6, description="rounds of jobs in a row that end before a worker joined, 5 s, 10 s, 20 s, ... apart"
    )
    poll: float = Field(5.0, gt=0, le=60, description="seconds between two looks at squeue")
    driver: DriverConfig = DriverConfig()

    @model_validator(mode="after")
    def _deal(self) -> SlurmConfig:
        count = (self.gres or "").rsplit(":", 1)[-1]
        if self.workers_per_job > 1 and count.isdigit() and int(count) % self.workers_per_job:
            raise ValueError(
                f"a job's GPUs are dealt out evenly: gres {self.gres} doesn't divide by {self.workers_per_job} workers"
            )
        if self.scratch is not None:
            node_path(self.scratch, "scratch")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of a job, requested by `gres` or by a directive such as --gpus-per-node=a100:2."""
        requested = [line.partition("=") for line in self.directives]
        counts = [value.rsplit(":", 1)[-1] for name, _, value in requested if name in _GPU_DIRECTIVES]
        return gres_gpus(self.gres) or max((int(count) for count in counts if count.isdigit()), default=0)


class ClusterConfig(_Frozen):
    """Where workers come from, and how many.

    A fixed number (`workers`) or, with `maximum`, as many between `minimum` and `maximum` as there is work for.
    On SLURM the numbers count jobs.
    """

    kind: Literal["local", "slurm"] = Field("local", description="workers on this machine, or as jobs of SLURM")
    workers: PositiveInt | None = Field(None, description="None: one a core or GPU; on SLURM one job")
    minimum: int = Field(0, ge=0, description="of an adaptive cluster")
    maximum: PositiveInt | None = Field(None, description="makes the cluster adaptive")
    threads_per_worker: PositiveInt | None = Field(
        None,
        description="compute threads of a local worker; None: one, or with GPUs its share of the cores; on SLURM "
        "slurm.cpus",
    )
    memory: Memory | None = Field(None, description="of a local worker, restarted above it; None: no limit")
    dashboard: bool | Dashboard = Field(True, description="true: a free port of 127.0.0.1")
    worker_ttl: PositiveInt = Field(60, description="seconds without a heartbeat after which a worker is given up")
    local: LocalConfig = LocalConfig()
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _bounds(self) -> ClusterConfig:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum is at least minimum, not {self.minimum}:{self.maximum}")
        if self.maximum is not None and self.workers is not None:
            raise ValueError("set workers, or minimum and maximum, not both")
        if self.maximum is None and self.minimum:
            raise ValueError("minimum belongs to an adaptive cluster: set maximum too")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether the number of workers follows the work."""
        return self.maximum is not None

    @property
    def dashboard_address(self) -> str | None:
        """Address for the scheduler's dashboard, None where there is none."""
        if isinstance(self.dashboard, str):
            return self.dashboard
        return "127.0.0.1:0" if self.dashboard else None
