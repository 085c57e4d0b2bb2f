"""A real SLURM on one machine: munged, slurmctld and several slurmd, each a virtual node with GPUs, all as root.

`python -m tests.slurm.boot FOLDER` starts one and prints its SLURM_CONF; with --stop it stops it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ["slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol", "sinfo"]
DEADLINE = 60.0  # seconds; it takes one or two on a quiet machine

CONF = """\
ClusterName=xycd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.txt
JobSubmitPlugins=lua
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
KillWait=5
MinJobAge=300
OverTimeLimit=0
UnkillableStepTimeout=30
RebootProgram=/bin/true
MailProg=/bin/true
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=4 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN\n"
)

# Of partition "strict", a site that wants memory to be stated for each core, or not at all.
SUBMIT = """\
function slurm_job_submit(job, partitions, uid)
    if job.partition == "strict" and job.min_mem_per_node ~= nil then
        slurm.log_user("Don't use --mem here: use --mem-per-cpu.")
        return slurm.ERROR
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid)
    return slurm.SUCCESS
end
"""


def missing() -> str | None:
    """Why SLURM can't be booted here, if so."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "a test SLURM runs on Linux as root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"no {', '.join(absent)}: run tests/slurm/install.sh" if absent else None


def comm(pid: int) -> str | None:
    """Name of a living process; None for none, or a zombie that its parent hasn't reaped yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :]
    return None if rest.startswith("Z") else name


@dataclass
class Slurm:
    """A SLURM under `root`, with `single` nodes of one GPU (partition gpu) and one of two (partition whole)."""

    root: Path
    single: int = 4

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def nodes(self) -> dict[str, int]:
        """GPUs of each node."""
        return {f"n{i + 1}": 1 for i in range(self.single)} | {"big": 2}

    def start(self) -> None:
        """Boot, and wait until all nodes are idle."""
        for name in ["etc", "run", "log", "state", "dev"]:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").mkdir(mode=0o711, exist_ok=True)
        self._configure()
        os.environ["SLURM_CONF"] = str(self.conf)
        munge = self.root / "munge"
        key = munge / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(1024))
        files = {"key-file": key, "socket": munge / "socket", "pid-file": self._pid_file("munged")}
        files |= {"log-file": self.root / "log" / "munged.log", "seed-file": munge / "seed"}
        self._run("munged", *(f"--{name}={path}" for name, path in files.items()), "--num-threads=2")
        self.start_controller("-c")
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle()

    def _configure(self) -> None:
        host, port = socket.gethostname().split(".")[0], free_ports(1 + len(self.nodes))
        text = CONF.format(root=self.root, host=host, port=port)
        gres, device = "AutoDetect=off\n", 0
        for i, (name, gpus) in enumerate(self.nodes.items()):
            (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
            text += NODE.format(name=name, host=host, port=port + 1 + i, gpus=gpus)
            for _ in range(gpus):
                path = self.root / "dev" / f"nvidia{device}"
                if not path.exists():
                    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
                gres += f"NodeName={name} Name=gpu File={path}\n"
                device += 1
        common = "MaxTime=INFINITE DefaultTime=30:00 State=UP"
        text += f"PartitionName=gpu Nodes=n[1-{self.single}] Default=YES {common}\n"
        text += f"PartitionName=whole Nodes=big {common}\n"
        text += f"PartitionName=strict Nodes=n[1-{self.single}] DefMemPerCPU=700 {common}\n"
        self.conf.write_text(text)
        (self.conf.parent / "job_submit.lua").write_text(SUBMIT)
        (self.conf.parent / "gres.conf").write_text(gres)
        limits = "ConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"
        (self.conf.parent / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n" + limits)

    def start_controller(self, *options: str) -> None:
        self._run("slurmctld", *options, "-f", str(self.conf))

    def start_node(self, name: str) -> None:
        self._run("slurmd", "-f", str(self.conf), "-N", name)

    def kill_controller(self) -> None:
        """As a crash would, without a goodbye, once what it knows of the latest jobs is on disk (some seconds)."""
        known, end = time.time(), time.monotonic() + 10
        while (self.root / "state" / "job_state").stat().st_mtime < known and time.monotonic() < end:
            time.sleep(0.1)
        self._end(["slurmctld"], signal.SIGKILL)

    def kill_node(self, name: str) -> None:
        """Kill slurmd and all processes of the node's jobs."""
        self._end([f"slurmd.{name}"], signal.SIGKILL)
        for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
            with suppress(OSError):
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"SLURMD_NODENAME={name}".encode() in environ and f"SLURM_CONF={self.conf}".encode() in environ:
                    os.kill(pid, signal.SIGKILL)

    def wait_idle(self) -> None:
        """Wait until all nodes are up and free."""
        end = time.monotonic() + DEADLINE
        states: list[str] = []
        while time.monotonic() < end:
            states = output("sinfo", "-h", "-N", "-o", "%T").split()
            if len(states) >= len(self.nodes) and set(states) == {"idle"}:
                return
            time.sleep(0.1)
        log = (self.root / "log" / "slurmctld.log").read_text()[-2000:]
        raise RuntimeError(f"nodes are {states}\n{log}")

    def stop(self) -> None:
        """Cancel all jobs and end all daemons, by their pid files."""
        if self._alive("slurmctld"):
            output("scancel", "-u", "root")
            end = time.monotonic() + 10
            while output("squeue", "-h").strip() and time.monotonic() < end:
                time.sleep(0.1)
        self._end([f"slurmd.{name}" for name in self.nodes])
        self._end(["slurmctld"])
        self._end(["munged"])

    def _pid_file(self, daemon: str) -> Path:
        return self.root / "run" / f"{daemon}.pid"

    def _alive(self, daemon: str) -> int | None:
        try:
            pid = int(self._pid_file(daemon).read_text())
        except (OSError, ValueError):
            return None
        return pid if comm(pid) == daemon.split(".")[0] else None

    def _end(self, daemons: list[str], number: signal.Signals = signal.SIGTERM) -> None:
        pids = [pid for pid in map(self._alive, daemons) if pid]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + 5
        while any(comm(pid) for pid in pids):
            if time.monotonic() > end:
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _run(self, *argv: str) -> None:
        """Run a daemon's starter; it goes on without our pipes."""
        with (self.root / "log" / "start.log").open("a+b") as log:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=DEADLINE, check=False)
            if done.returncode:
                log.seek(0)
                raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {log.read().decode()[-2000:]}")


def output(*argv: str) -> str:
    """What a command prints; empty where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return done.stdout if done.returncode == 0 else ""


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for _ in range(200):
        first = 20000 + secrets.randbelow(12000)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop", action="store_true")
    chosen = parser.parse_args()
    slurm = Slurm(chosen.folder.absolute())
    if chosen.stop:
        os.environ["SLURM_CONF"] = str(slurm.conf)
        slurm.stop()
    else:
        slurm.start()
        print(f"export SLURM_CONF={slurm.conf}")
