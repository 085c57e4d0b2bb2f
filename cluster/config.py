"""Configuration of workers: frozen, validated models whose values are safe in a batch script.

sbatch reads the lines `#SBATCH ...`, and a shell runs the rest with the user's rights. Every value that enters a script
must therefore match a narrow pattern: a profile that a group shares can't contain a command in place of a name.
Only `prologue` holds shell code, and `xycd plan` prints it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
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
_OURS: Final = {  # directives that have a key of their own, or would break the matching of jobs and workers
    "account", "array", "chdir", "clusters", "comment", "constraint", "cpus-per-task", "error", "exclude", "gres",
    "job-name", "mem", "mem-per-cpu", "mem-per-gpu", "nodes", "ntasks", "no-requeue", "open-mode", "output", "parsable",
    "partition", "qos", "requeue", "signal", "test-only", "time", "wait", "wrap",
}  # fmt: skip
_GPU_DIRECTIVES: Final = ("--gpus", "--gpus-per-node", "--gpus-per-task")  # the same for one task on one node


def _matching(pattern: str, rule: str) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{rule}, not {value!r}")
        return value

    return AfterValidator(check)


def _parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    def check(value: str) -> str:
        parse(value)
        return value

    return AfterValidator(check)


def walltime_seconds(text: str) -> int:
    """Seconds of a SLURM time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises
    ------
    ValueError
        When the text has another form, or is zero.
    """
    found = _WALLTIME.fullmatch(text)
    if not found or not text.isascii():
        raise ValueError(f"a walltime must be minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, not {text!r}")
    part = {name: int(value or 0) for name, value in found.groupdict().items()}
    hours = part["dh"] + part["h"]
    minutes = part["dm"] + part["hm"] + part["m"] + part["minutes"]
    seconds = part["days"] * 86400 + hours * 3600 + minutes * 60 + part["ds"] + part["hs"] + part["ms"]
    if seconds <= 0:
        raise ValueError(f"a walltime must be longer than zero, not {text!r}")
    return seconds


def memory_bytes(text: str) -> int:
    """Bytes of a SLURM memory size: a whole number and K, M, G or T (powers of 1024).

    Raises
    ------
    ValueError
        When the text has another form.
    """
    found = _MEMORY.fullmatch(text)
    if not found or not text.isascii():
        raise ValueError(f"a memory size must be a whole number and K, M, G or T, such as 16G, not {text!r}")
    return int(found[1]) * 1024 ** (1 + "KMGT".index(found[2]))


def _job_memory(value: str) -> str:
    if value != "all":
        memory_bytes(value)
    return value


def _one_line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"a line must not contain line breaks or control characters, unlike {value!r}")
    return value


def _directive(value: str) -> str:
    if not _DIRECTIVE.fullmatch(value):
        raise ValueError(f"a directive must be --name or --name=value, without spaces or quotes, not {value!r}")
    name = value[2:].split("=")[0]
    ours = [
        option for option in sorted(_OURS) if option.startswith(name)
    ]  # sbatch accepts any unambiguous abbreviation
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


def _python(value: str) -> str:
    words = value.split(" ")
    if value.startswith("-") or not all(re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII) for word in words):
        raise ValueError(f"an interpreter must consist of words of letters, digits and @%+=:,./_-, not {value!r}")
    return value


def safe_path(value: Path) -> Path:
    """Return `value` if it contains no character that is special to SLURM or a shell; else raise ValueError."""
    text = str(value)
    if "%" in text or "~" in text or shlex.quote(text) != text:
        raise ValueError(f"the path of a folder of jobs must consist of letters, digits and @+=:,./_-, not {text!r}")
    return value


def port_range(text: str) -> tuple[int, int]:
    """First and last port of "8000:8100" or "8000"."""
    first, _, last = text.partition(":")
    low, high = int(first), int(last or first)
    if not 1024 <= low <= high <= 65535:
        raise ValueError(f"ports must lie between 1024 and 65535, lower first, not {text!r}")
    return low, high


def _lines(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+:-]*"
Name = Annotated[str, _matching(_NAME, "a name must consist of letters, digits and _.@+:-")]
Names = Annotated[
    str, _matching(rf"{_NAME}(,{_NAME})*", "names must consist of letters, digits and _.@+:-, with commas between")
]
Constraint = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9_(\[!][A-Za-z0-9_.&|*!,()\[\]-]*", "a constraint must consist of letters, digits and _.&|*!,()[]-"
    ),
]
Nodes = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "nodes must be like n1,n[3-5]")]
Gres = Annotated[
    str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_.,:-]+)?", "gres must be like gpu:1 or gpu:a100:1")
]
Interface = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,31}", "an interface must be like ib0 or eth0")]
Dashboard = Annotated[str, _matching(r"[A-Za-z0-9_.-]*:\d{1,5}", "a dashboard address must be like 127.0.0.1:8787")]
Walltime = Annotated[str, _parsed_by(walltime_seconds)]
Memory = Annotated[str, _parsed_by(memory_bytes)]
JobMemory = Annotated[str, AfterValidator(_job_memory)]
MemoryPer = Literal["job", "cpu", "gpu", "none"]
_MEMORY_OPTION: Final = {"job": "--mem", "cpu": "--mem-per-cpu", "gpu": "--mem-per-gpu"}
Line = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_lines)]
Directive = Annotated[str, AfterValidator(_directive)]
Directives = Annotated[tuple[Directive, ...], BeforeValidator(_lines)]
Python = Annotated[str, AfterValidator(_python)]
Folder = Annotated[Path, AfterValidator(safe_path)]
NodePath = Annotated[str, _matching(r"\$?[\w./${}-]+", "a folder on a node must be a path such as $TMPDIR")]
Ports = Annotated[
    str, _matching(r"\d{4,5}(:\d{4,5})?", "ports must be FIRST:LAST or one number"), _parsed_by(port_range)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class LocalConfig(_Frozen):
    """Workers on this machine."""

    gpus: Literal["auto", "none"] | tuple[int, ...] = Field(
        "auto", description="GPUs to use, one worker each; auto: all visible GPUs, if the models use any"
    )
    startup: PositiveInt = Field(600, description="seconds without any worker after which a run ends")


def memory_directive(memory: str, per: MemoryPer) -> str | None:
    """The sbatch option that asks for memory; None where a site wants no such option."""
    return None if per == "none" else f"{_MEMORY_OPTION[per]}={'0' if memory == 'all' else memory}"


class DriverConfig(_Frozen):
    """The small batch job that runs the driver under `--detach`."""

    partition: Names | None = Field(None, description="partition of that job; None: that of the workers")
    cpus: PositiveInt = Field(2, description="CPU cores of that job")
    memory: JobMemory = Field("4G", description="memory of that job")
    memory_per: MemoryPer | None = Field(
        None, description="what memory is of, as slurm.memory_per; None: that, or job in place of gpu"
    )
    walltime: Walltime = Field("2-00:00:00", description="walltime of that job, and so of the whole run")
    gres: Gres | None = Field(None, description="gres of that job, such as gpu:1, for a partition that requires one")
    directives: Directives = Field((), description="further sbatch options of that job")


class SlurmConfig(_Frozen):
    """Jobs of SLURM, each with one worker, or several on sites that give whole nodes only."""

    partition: Names | None = Field(None, description="one partition, or several with commas; None: the site's default")
    account: Name | None = Field(None, description="account that is charged; None: your default account")
    qos: Name | None = Field(None, description="quality of service; None: the site's default")
    constraint: Constraint | None = Field(None, description="features that a node must have, such as a100|h100")
    exclude: Nodes | None = Field(None, description="nodes to avoid, such as n1,n[3-5]")
    gres: Gres | None = Field("gpu:1", description="gres of a job; None for CPU jobs")
    cpus: PositiveInt = Field(4, description="CPU cores per job")
    memory: JobMemory = Field("16G", description='memory of a job, or of what memory_per says; "all": of a whole node')
    memory_per: MemoryPer = Field(
        "job",
        description="what memory is of, for sites that refuse --mem: job, cpu (--mem-per-cpu), gpu (--mem-per-gpu), or "
        "none: jobs ask for no memory, and get what the site gives",
    )
    walltime: Walltime = Field(
        "04:00:00", description="walltime of a job; workers leave before it ends and are replaced"
    )
    workers_per_job: PositiveInt = Field(1, description="worker processes per job, which share the job's GPUs")
    prologue: Lines = Field(
        (), description="shell lines before the worker starts, such as loading modules or activating conda"
    )
    directives: Directives = Field((), description="further sbatch options, such as --reservation=night")
    python: Python | None = Field(
        None, description="interpreter on the nodes, such as `apptainer exec --nv image.sif python`; None: this one"
    )
    interface: Interface | None = Field(None, description="network interface of the nodes, such as ib0")
    scheduler_interface: Interface | None = Field(
        None, description="interface of the login node, if its name differs; None: that towards slurmctld"
    )
    scheduler_ports: Ports | None = Field(None, description="FIRST:LAST; the scheduler uses one free port of these")
    worker_ports: Ports | None = Field(None, description="FIRST:LAST, for sites with a firewall between nodes")
    tls: bool = Field(
        True, description="encrypt connections; without TLS, everyone who reaches the port can run code as you"
    )
    folder: Folder | None = Field(
        None, description="folder on shared disk, in which a run makes a private folder; None: the workspace"
    )
    scratch: NodePath | None = Field(None, description="node-local folder for the workers' files, such as $TMPDIR")
    drain: PositiveInt = Field(300, description="workers leave at least so many seconds before the walltime")
    startup: PositiveInt = Field(600, description="seconds that a running job has until its worker must have connected")
    give_up_after: PositiveInt = Field(
        6, description="consecutive rounds of failed jobs (5 s, 10 s, 20 s, ... apart) after which a run ends"
    )
    poll: float = Field(5.0, gt=0, le=60, description="seconds between two calls of squeue")
    driver: DriverConfig = DriverConfig()

    @model_validator(mode="after")
    def _deal(self) -> SlurmConfig:
        count = (self.gres or "").rsplit(":", 1)[-1]
        if self.workers_per_job > 1 and count.isdigit() and int(count) % self.workers_per_job:
            raise ValueError(
                f"workers of a job must share its GPUs evenly, not {self.workers_per_job} workers with gres {self.gres}"
            )
        if self.memory == "all" and self.memory_per != "job":
            raise ValueError(f'memory = "all" is of a job, not of memory_per = "{self.memory_per}"')
        if self.memory_per == "gpu" and not self.gpus:
            raise ValueError(
                'memory_per = "gpu" needs jobs with GPUs: set gres, or a directive such as --gpus-per-node=1'
            )
        return self

    @property
    def job_memory(self) -> int | None:
        """Bytes of a job's memory; None where only SLURM knows: all of a node's, or the site's default."""
        if self.memory == "all" or self.memory_per == "none":
            return None
        return memory_bytes(self.memory) * {"job": 1, "cpu": self.cpus, "gpu": self.gpus}[self.memory_per]

    @property
    def gpus(self) -> int:
        """GPUs of a job, requested by `gres` or by a directive such as --gpus-per-node=a100:2."""
        requested = [line.partition("=") for line in self.directives]
        counts = [value.rsplit(":", 1)[-1] for name, _, value in requested if name in _GPU_DIRECTIVES]
        return gres_gpus(self.gres) or max((int(count) for count in counts if count.isdigit()), default=0)


class ClusterConfig(_Frozen):
    """Kind and number of workers.

    The number is fixed (`workers`), or follows the work between `minimum` and `maximum`. On SLURM it counts jobs.
    """

    kind: Literal["local", "slurm"] = Field("local", description="workers on this machine, or in SLURM jobs")
    workers: PositiveInt | None = Field(
        None, description="number of workers or SLURM jobs; None: one worker per core or GPU, or one job"
    )
    minimum: int = Field(0, ge=0, description="smallest number of workers of an adaptive cluster")
    maximum: PositiveInt | None = Field(None, description="largest number of workers; makes the cluster adaptive")
    threads_per_worker: PositiveInt | None = Field(
        None,
        description="threads of a local worker; None: one, or with GPUs its share of the cores; on SLURM slurm.cpus",
    )
    memory: Memory | None = Field(
        None, description="memory of a local worker, which is restarted above it; None: no limit"
    )
    dashboard: bool | Dashboard = Field(True, description="address of the dashboard; true: a free port of 127.0.0.1")
    worker_ttl: PositiveInt = Field(60, description="seconds without a heartbeat after which a worker counts as lost")
    local: LocalConfig = LocalConfig()
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _bounds(self) -> ClusterConfig:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum must be at least minimum, not {self.minimum}:{self.maximum}")
        if self.maximum is not None and self.workers is not None:
            raise ValueError("set workers, or minimum and maximum, not both")
        if self.maximum is None and self.minimum:
            raise ValueError("minimum needs an adaptive cluster: set maximum too")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether the number of workers follows the work."""
        return self.maximum is not None

    @property
    def dashboard_address(self) -> str | None:
        """Address for the scheduler's dashboard; None without a dashboard."""
        if isinstance(self.dashboard, str):
            return self.dashboard
        return "127.0.0.1:0" if self.dashboard else None
