"""Values are validated before they enter a batch script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.config import ClusterConfig, SlurmConfig, gres_gpus, memory_bytes, port_range, walltime_seconds
from cluster.slurm import jobs

FIELDS = ["partition", "account", "qos", "constraint", "exclude", "gres", "memory", "walltime", "interface", "python"]
BASE = ClusterConfig(kind="slurm", slurm=SlurmConfig(gres=None))
NASTY = [
    "a\nb",
    "a b",
    "a;b",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a\\b",
    "#a",
    "a>b",
    "a\u2028b",
    "a\x00b",
    "-rf",
    "--wrap=id",
    "",
]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("04:00:00", 14400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-01:01:01", 90061),
        ("0:01", 1),
    ],
)
def test_walltime(text: str, seconds: int) -> None:
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "00:00:00", "1h", "1:2:3:4", "-5", "1-", "UNLIMITED", "١", "5\n"])
def test_walltime_refused(text: str) -> None:
    with pytest.raises(ValueError, match="walltime"):
        walltime_seconds(text)


def test_memory() -> None:
    assert memory_bytes("16G") == 16 * 2**30
    assert memory_bytes("1K") == 1024
    for text in ["16", "16GB", "0G", "1.5G", "G", "16G\n", " 16G"]:
        with pytest.raises(ValueError, match="memory"):
            memory_bytes(text)


def test_ports() -> None:
    assert port_range("8000:8100") == (8000, 8100)
    assert port_range("8000") == (8000, 8000)
    for text in ["80:90", "9000:8000", "8000:99999", "a", "8000-8100"]:
        with pytest.raises(ValidationError):
            SlurmConfig(worker_ports=text)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", NASTY)
def test_nasty_values(field: str, value: str) -> None:
    if field == "python" and value == "a b":
        return  # words of a command line; it is one by its meaning
    with pytest.raises(ValidationError):
        SlurmConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "gpu,gpu-long"),
        ("account", "proj_123@site"),
        ("constraint", "a100|v100&ib"),
        ("constraint", "[rack1*2&rack2*4]"),
        ("exclude", "n1,n[3-5]"),
        ("gres", "gpu:a100:2"),
        ("python", "apptainer exec --nv /data/image.sif python"),
        ("interface", "ib0"),
    ],
)
def test_good_values(field: str, value: str) -> None:
    assert getattr(SlurmConfig(**{field: value}), field) == value


def script_lines(config: SlurmConfig) -> list[str]:
    return jobs.job_script(ClusterConfig(kind="slurm", slurm=config), Path("/shared/run")).splitlines()


awkward = st.text(alphabet=st.sampled_from("ab1-_.,:=/ \n\r\t;&|$`'\"\\#%()<>!*[]{}~\u2028\x85\x0b"), max_size=12)


@settings(deadline=None, max_examples=300)
@given(
    field=st.sampled_from([*FIELDS, "scratch", "scheduler_interface"]), value=st.one_of(awkward, st.text(max_size=8))
)
def test_no_value_adds_a_line_or_a_word(field: str, value: str) -> None:
    """Any accepted value stays one word of one line."""
    try:
        config = SlurmConfig(**{"gres": None, field: value})
    except ValidationError:
        return
    lines = script_lines(config)
    plain = script_lines(BASE.slurm)
    header = [line for line in lines if line.startswith("#SBATCH")]
    assert len(lines) - len(plain) == len(header) - len([x for x in plain if x.startswith("#SBATCH")])
    assert len(header) <= len(plain)
    for line in header:
        assert len(line.split()) <= 3  # "#SBATCH -p gpu" or "#SBATCH --name=value"
        assert shlex.split(line[1:]) == line[1:].split()  # no quote or backslash has a meaning
    assert not re.search(r"[;&|<>`\n\\'\"#]", lines[-1])
    assert "$(" not in lines[-1]


@settings(deadline=None, max_examples=300)
@given(value=awkward)
def test_directives(value: str) -> None:
    try:
        config = SlurmConfig(directives=(f"--{value}",))
    except ValidationError:
        return
    [line] = set(script_lines(config)) - set(script_lines(SlurmConfig()))
    assert line == f"#SBATCH --{value}"
    assert len(line.split()) == 2


@pytest.mark.parametrize(
    "directive",
    [
        "--array=1-9",
        "--wrap=id",
        "--requeue",
        "-n2",
        "--ntasks=2",
        "--output=/x",
        "--time=5",
        "--comment=a b",
        "--job-name=x",
        "--clusters=x",
        "--clus=x",
        "--arr=1-3",
        "--requeu",
        "--job=x",
        "--part=x",
        "--tim=5",
        "--signal=TERM",
        "--open-mode=truncate",
    ],
)
def test_directives_that_break_us(directive: str) -> None:
    with pytest.raises(ValidationError):
        SlurmConfig(directives=(directive,))


@pytest.mark.parametrize(
    "directive",
    ["--reservation=night", "--gpus-per-node=a100:2", "--exclusive", "--mem-bind=local", "--time-min=5", "--nice=100"],
)
def test_directives_that_do_not(directive: str) -> None:
    assert SlurmConfig(directives=(directive,)).directives == (directive,)


def test_prologue_is_shell_but_one_line_each() -> None:
    config = SlurmConfig(prologue=["module load cuda/12", 'eval "$(conda shell.bash hook)"', "conda activate xycd"])
    lines = script_lines(config)
    start = lines.index("module load cuda/12")
    assert lines[start : start + 3] == list(config.prologue)
    for line in ["a\nb", "a\rb", "a\x85b", "a\u2028b"]:
        with pytest.raises(ValidationError):
            SlurmConfig(prologue=(line,))


@pytest.mark.parametrize("path", ["/a b", "/a\nb", "/a%j", "/$HOME/x", "/a;b", "/a'b"])
def test_folders(path: str) -> None:
    with pytest.raises(ValidationError):
        SlurmConfig(folder=Path(path))


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 2, "maximum": 3},
        {"minimum": 3, "maximum": 2},
        {"minimum": 3},
        {"workers": 0},
        {"unknown": 1},
        {"slurm": {"unknown": 1}},
        {"slurm": {"gres": "gpu:3", "workers_per_job": 2}},
        {"dashboard": "0.0.0.0:80;id"},
    ],
)
def test_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClusterConfig(**values)


def test_frozen_and_round_trip() -> None:
    config = ClusterConfig(kind="slurm", minimum=2, maximum=20, slurm=SlurmConfig(prologue=("a",)))
    assert ClusterConfig.model_validate_json(config.model_dump_json()) == config
    assert config.adaptive
    with pytest.raises(ValidationError):
        config.minimum = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"memory": "all", "memory_per": "cpu"}, 'memory = "all" is of a job'),
        ({"memory_per": "gpu", "gres": None}, "needs jobs with GPUs"),
        ({"memory": "most"}, "a memory size must be"),
        ({"directives": ["--mem-per-cpu=4G"]}, "--mem-per-cpu has a key of its own"),
    ],
)
def test_memory_of_jobs(slurm: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SlurmConfig.model_validate(slurm)
    directives = {"memory_per": "gpu", "memory": "8G", "gres": None, "directives": ["--gpus-per-node=a100:4"]}
    assert SlurmConfig.model_validate(directives).job_memory == 32 * 2**30


def test_dashboard() -> None:
    assert ClusterConfig().dashboard_address == "127.0.0.1:0"
    assert ClusterConfig(dashboard=False).dashboard_address is None
    assert ClusterConfig(dashboard="127.0.0.1:8787").dashboard_address == "127.0.0.1:8787"


@pytest.mark.parametrize(
    ("gres", "directives", "count"),
    [
        ("gpu:2", (), 2),
        (None, (), 0),
        (None, ("--gpus-per-node=4", "--exclusive"), 4),
        (None, ("--gpus=a100:2",), 2),
        ("none", ("--gpus-per-node=2",), 2),
        ("gpu:1", ("--gpus-per-task=1",), 1),
    ],
)
def test_gpus_of_a_job(gres: str | None, directives: tuple[str, ...], count: int) -> None:
    assert SlurmConfig(gres=gres, directives=directives).gpus == count


def test_gres_gpus() -> None:
    assert [gres_gpus(g) for g in [None, "gpu", "gpu:2", "gpu:a100:4", "gpu:a100", "shard:3", "shard:1,gpu:2"]] == [
        0, 1, 2, 4, 1, 0, 2,
    ]  # fmt: skip
