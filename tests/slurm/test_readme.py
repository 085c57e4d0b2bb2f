"""README's way from the login node to the results, word for word but for the names of a site."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from etl.config import load
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.slurm.waiting import until
from tests.slurm.whole import SIZE, Run, same_arrays, toml

WORKSPACE = "/scratch/me/xycd"
NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA A40, 550.54.15, 46068 MiB'\n"


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    """Profile, commands of the login node, commands of another shell, in order."""
    found = [block for block in blocks_of(ROOT / "README.md") if "xycd.toml" in block.text or WORKSPACE in block.text]
    start = next(i for i, block in enumerate(found) if 'kind = "slurm"' in block.text)
    return found[start : start + 3]


def site(profile: dict[str, object], run: Run) -> dict[str, object]:
    """The profile with this machine's names for that site's."""
    environment = run.folder / "miniforge3" / "bin"
    environment.mkdir(parents=True)
    (environment / "activate").write_text(f"echo activated $1; PATH={environment}:$PATH\n")
    (environment / "nvidia-smi").write_text(NVIDIA_SMI)
    (environment / "nvidia-smi").chmod(0o755)
    text = toml(profile).replace(WORKSPACE, str(run.workspace)).replace("/data/h36m", str(run.raw))
    text = text.replace("essa-lab", "gpu").replace("gpu:a40:1", "gpu:1").replace("node[07-09]", "n[3-4]")
    text = text.replace("~/miniforge3", str(run.folder / "miniforge3"))
    values = tomllib.loads(text)
    values["cluster"]["slurm"] |= {"cpus": 2, "memory": "1G"}
    values["cluster"]["workers"] = 2
    values["datasets"]["h36m"]["hz"] = 50
    values["models"] = {"set": "tests.slurm.held:build", "options": {"folder": str(run.folder)}}
    return values | {"estimate": {"partition_frames": SIZE}}


def start(words: list[str], run: Run) -> subprocess.Popen[str]:
    """A line of README, started."""
    assert words[0] == "xycd"
    here = {"xycd.toml": str(run.config), WORKSPACE: str(run.workspace)}
    command = [sys.executable, "-m", "etl.cli", *(here.get(word, word) for word in words[1:])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_from_the_login_node_to_results(blocks: list[Block], make: Callable[..., Run], reference: Path) -> None:
    profile, here, elsewhere = blocks
    load(None, tomllib.loads(profile.text))  # as it stands: no key and no value is refused
    run = make()
    run.config.write_text(toml(site(tomllib.loads(profile.text), run)))
    said = {}
    for words in here.commands():
        process = start(words, run)
        if words[1] == "run":
            run.process = running = process
            break
        said[words[1]], problems = process.communicate(timeout=120)
        assert process.returncode == 0, (words, said, problems)
    else:
        pytest.fail("README doesn't run anything")
    assert list(said) == ["annotate", "plan", "check"]
    assert "#SBATCH --exclude=n[3-4]" in said["plan"]
    assert "NVIDIA A40" in said["check"]
    assert "frames/s a worker" in said["check"]

    until(lambda: len(run.finished()) >= 2, 120, "for partitions")
    with run.hold(2):
        watching = None
        for words in elsewhere.commands():
            process = start(words, run)
            if "--watch" in words:
                watching = process
                continue
            said[words[1]], problems = process.communicate(timeout=60)
            assert process.returncode == 0, (words, said, problems)
    assert "between 2 and 20 jobs" in said["scale"]
    assert len(said["logs"].splitlines()) >= 2
    assert "Walking" in said["query"]
    ended, problems = running.communicate(timeout=240)
    assert running.returncode == 0, (ended, problems)
    assert watching is not None
    seen, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "workers      2" in seen
    same_arrays(run.workspace, reference)
    assert {"h36m_xycd_train.npz", "h36m_xycd_val.npz"} <= {p.name for p in (run.workspace / "training").iterdir()}
