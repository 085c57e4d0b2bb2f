"""The way to a running driver from another shell: a status that it rewrites, and commands that it answers.

All goes through small files in the run's folder, on the workspace's disk, because that is what a terminal on any
login node, a notebook and a driver inside a batch job have in common. Layout, all of it owner-only:

    owner.json            who drives; made exclusively, gone when the run is
    status.json           heartbeat and the driver's own words, replaced every second
    commands/<id>.json    one command each, deleted when taken
    answers/<id>.json     the answer, deleted by who asked
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster import files
from cluster.errors import ClusterError, NoRun
from cluster.owner import Owner
from cluster.slurm.commands import CommandFailed, run

WORTH = 3600.0  # seconds after which a command that nobody took is void


class Command(BaseModel):
    """What the owner of a run asks of it.

    Parameters
    ----------
    kind : {"scale", "stop"}
        ``scale``: `argument` is "12" or "2:20". ``stop``: finish what is running, then leave; with `argument` "now",
        leave at once.
    argument : str
        See `kind`.
    id : str
        Names the answer.
    sent : float
        Epoch second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scale", "stop"]
    argument: str = Field("", max_length=32)
    id: str = Field(default_factory=lambda: f"{time.time_ns()}-{secrets.token_hex(4)}", pattern=r"^[0-9a-f-]{1,60}$")
    sent: float = Field(default_factory=time.time)

    @model_validator(mode="after")
    def _form(self) -> Command:
        if self.kind == "stop" and self.argument not in ("", "now"):
            raise ValueError(f'stop takes nothing or "now", not {self.argument!r}')
        return self


@dataclass(frozen=True)
class RunStatus:
    """What a run says of itself.

    Parameters
    ----------
    alive : bool
        Whether its driver lives, as far as can be told from here.
    state : str
        ``running``; ``ended``: it left in order; ``lost``: it died without a word.
    age_s : float
        Seconds since its last heartbeat.
    owner : Owner
        Its process.
    started : float
        Epoch second.
    status : dict
        The driver's own words.
    """

    alive: bool
    state: Literal["running", "ended", "lost"]
    age_s: float
    owner: Owner
    started: float
    status: dict[str, Any]


class Controller:
    """The driver's end: publishes a status, receives commands. A context manager.

    Parameters
    ----------
    folder : Path
        The run's folder, on a disk that all login nodes see.
    interval : float
        Seconds between heartbeats, and between looks for commands.

    Raises
    ------
    ClusterError
        On entering, when another driver is at work in this folder.
    """

    def __init__(self, folder: Path, *, interval: float = 1.0) -> None:
        self.folder = Path(folder).absolute()
        self.owner = Owner.this()
        self.started = time.time()
        self.trouble = ""  # why the last heartbeat couldn't be written, if so
        self._interval = interval
        self._status: dict[str, Any] = {}
        self._taken: list[Command] = []
        self._open: set[str] = set()
        self._lock = threading.Lock()
        self._leave = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xycd-control", daemon=True)

    def __enter__(self) -> Controller:
        files.private_folder(self.folder)
        self._claim()
        try:
            for name in ("commands", "answers"):
                for left in files.private_folder(self.folder / name).iterdir():
                    left.unlink(missing_ok=True)
            for half_written in self.folder.glob(".status.json.*"):
                half_written.unlink(missing_ok=True)
            self._write("running")
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave.set()
        self._thread.join(timeout=30)
        with suppress(OSError):  # a full disk; the missing heartbeat tells the rest
            self._take()
        for name in sorted(self._open):
            self._answer(name, "The run has ended.", ok=False)
        with suppress(OSError):
            self._write("ended")
        self._release()

    def publish(self, status: dict[str, Any]) -> None:
        """Set what `read_status` shows, JSON-ready; written within `interval`."""
        text = json.dumps(status, allow_nan=False)  # find what isn't JSON here, not in the thread
        with self._lock:
            self._status = json.loads(text)

    def commands(self) -> list[Command]:
        """Commands that came since the last call, in order. Answer each with `acknowledge`."""
        with self._lock:
            taken, self._taken = self._taken, []
        return taken

    def acknowledge(self, command: Command, message: str, *, ok: bool = True) -> None:
        """Answer a command."""
        self._answer(command.id, message, ok=ok)

    def wait(self, seconds: float) -> bool:
        """Sleep until a command comes, at most `seconds`; whether one came."""
        came = self._wake.wait(seconds)
        self._wake.clear()
        return came

    def _run(self) -> None:
        while not self._leave.wait(self._interval):
            try:
                self._write("running")
                self._take()
                self.trouble = ""
            except OSError as error:  # the run's own write says what is wrong
                self.trouble = str(error)

    def _write(self, state: str) -> None:
        with self._lock:
            status = self._status
        record = {
            "state": state,
            "heartbeat": time.time(),
            "started": self.started,
            "owner": self.owner.model_dump(),
            "status": status,
        }
        files.write_private(self.folder / "status.json", json.dumps(record))

    def _take(self) -> None:
        files.look_afresh(self.folder / "commands")
        texts = []
        for path in sorted((self.folder / "commands").glob("*.json")):
            texts.append(files.read_private(path))
            path.unlink(missing_ok=True)
        for text in texts:
            try:
                command = Command.model_validate_json(text or "")
            except ValidationError:
                continue
            if time.time() - command.sent > WORTH:
                continue
            with self._lock:
                self._taken.append(command)
                self._open.add(command.id)
            self._wake.set()

    def _answer(self, name: str, message: str, *, ok: bool) -> None:
        with self._lock:
            self._open.discard(name)
        answer = {"id": name, "ok": ok, "message": message}
        with suppress(OSError):  # who asked sees no answer, and says so
            files.write_private(self.folder / "answers" / f"{name}.json", json.dumps(answer))

    def _claim(self) -> None:
        path = self.folder / "owner.json"
        for _ in range(5):
            try:
                files.create_private(path, self.owner.model_dump_json())
                return
            except FileExistsError:
                self._set_aside(path)
        raise ClusterError(
            "One driver at a time works in a workspace.",
            f"others that come and go in {self.folder}",
            "Wait until they have ended.",
        )

    def _set_aside(self, path: Path) -> None:
        """Remove the note of a dead driver."""
        text = files.read_private(path)
        if text is None:  # gone just now, or not ours to read
            time.sleep(0.1)
            return
        owner, heartbeat = Owner.read(text), _heartbeat(self.folder)
        with suppress(FileNotFoundError):
            heartbeat = max(heartbeat, path.stat().st_mtime)
        if owner is not None and _lives(owner, heartbeat):
            job = f", SLURM job {owner.job}" if owner.job else ""
            raise ClusterError(
                "One driver at a time works in a workspace.",
                f"process {owner.pid} on {owner.host}{job} in {self.folder}",
                "Watch it with `xycd status`, end it with `xycd stop`, or choose another workspace.",
            )
        aside = path.with_name(f".owner.{secrets.token_hex(6)}")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if files.read_private(aside) != text:  # someone else was faster, and this is their note
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            aside.unlink()

    def _release(self) -> None:
        path = self.folder / "owner.json"
        owner = Owner.read(files.read_private(path) or "")
        if owner is not None and owner.token == self.owner.token:
            path.unlink(missing_ok=True)


def read_status(folder: Path) -> RunStatus:
    """What the run in `folder` says.

    Raises
    ------
    NoRun
        When there never was one.
    """
    folder = Path(folder)
    try:
        record = _record(folder)
        owner = Owner.model_validate(record["owner"])
        heartbeat, started, said = float(record["heartbeat"]), float(record["started"]), str(record["state"])
        status = dict(record["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise NoRun(
            "A run leaves its status in the workspace.", f"none in {folder}", "Check --workspace, or start a run."
        ) from error
    alive = said == "running" and _lives(owner, heartbeat)
    state: Literal["running", "ended", "lost"] = "running" if alive else "ended" if said == "ended" else "lost"
    return RunStatus(alive, state, max(0.0, time.time() - heartbeat), owner, started, status)


def send(folder: Path, kind: Literal["scale", "stop"], argument: str = "", *, timeout: float = 60) -> str:
    """Send a command to the run in `folder` and wait for its answer.

    Returns
    -------
    str
        The answer.

    Raises
    ------
    NoRun
        When no driver lives there.
    ClusterError
        When the command has a wrong form, the driver refuses it, or gives no answer.
    """
    found = read_status(folder)
    if not found.alive:
        raise NoRun(
            "A command goes to a living run.",
            f"the run of {folder} has {found.state}",
            "Start it again with `xycd run`.",
        )
    try:
        command = Command(kind=kind, argument=argument)
    except ValidationError as error:
        raise ClusterError("A command has a known form.", error.errors()[0]["msg"], "See `xycd --help`.") from error
    folder = Path(folder).absolute()
    path, answer = folder / "commands" / f"{command.id}.json", folder / "answers" / f"{command.id}.json"
    _post(path, command, found)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        files.look_afresh(answer.parent)
        said = _read_answer(answer, command.id)
        if said is not None:
            answer.unlink(missing_ok=True)
            if not said["ok"]:
                raise ClusterError("The run takes the command.", str(said["message"]), "See `xycd status`.")
            return str(said["message"])
        time.sleep(0.2)
    path.unlink(missing_ok=True)
    raise ClusterError(
        "The run answers.",
        f"nothing within {timeout:.0f} s",
        "See `xycd status`; a driver that hangs is killed by hand.",
    )


def _post(path: Path, command: Command, run: RunStatus) -> None:
    """Leave a command for the driver."""
    try:
        files.write_private(path, command.model_dump_json())
    except OSError as error:
        by_hand = f"`kill -INT {run.owner.pid}` on {run.owner.host}"
        raise ClusterError(
            "A command is a small file in the run's folder.",
            f"{path.parent}: {error.strerror}",
            f"Free some space, or stop the run with {by_hand}.",
        ) from error


def _read_answer(path: Path, name: str) -> dict[str, Any] | None:
    """The answer to the command `name`, if it is there."""
    with suppress(ValueError):  # nothing yet
        said = json.loads(files.read_private(path) or "")
        if said.get("id") == name:
            return dict(said)
    return None


def _record(folder: Path) -> dict[str, Any]:
    """Content of status.json.

    Raises
    ------
    ValueError, TypeError
        When there is nothing readable.
    """
    return dict(json.loads(files.read_private(folder / "status.json") or "null"))


def _heartbeat(folder: Path) -> float:
    try:
        return float(_record(folder)["heartbeat"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _lives(owner: Owner, heartbeat: float) -> bool:
    """Whether the owner lives; for one in a batch job on another host, SLURM knows better than a heartbeat."""
    if not owner.alive(heartbeat):
        return False
    if owner.job and owner.job.isdigit() and not owner.here:
        try:
            state = run(["squeue", "--noheader", "-j", owner.job, "-o", "%T"], timeout=20).strip()
        except CommandFailed as error:
            return "nvalid job id" not in str(error)
        return state not in ("", "COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT")
    return True
