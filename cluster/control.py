"""Control of a running driver from another terminal: the driver publishes a status and answers commands.

Both sides use small files in the run's folder, on the workspace's disk, because terminals on all login nodes, notebooks
and drivers in batch jobs can reach it. Only the owner can read them:

    owner.json            the driver's process; created exclusively, removed when the run ends
    status.json           heartbeat and the driver's status, replaced every second
    commands/<id>.json    one command each, deleted when the driver reads it
    answers/<id>.json     the answer, deleted by the terminal that asked
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
from cluster.driver_process import DriverProcess
from cluster.errors import ClusterError, NoRun
from cluster.slurm.commands import job_is_active

EXPIRES_AFTER = 3600.0  # seconds after which the driver ignores a command
ONE_DRIVER = "Only one driver may work in a workspace."


class Command(BaseModel):
    """A command to a running driver.

    Parameters
    ----------
    kind : {"scale", "stop"}
        ``scale``: `argument` is "12" or "2:20". ``stop``: finish what is running, then leave; with the argument "now",
        leave at once.
    argument : str
        See `kind`.
    id : str
        Names the files of command and answer.
    sent : float
        Epoch second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scale", "stop"]
    argument: str = Field("", max_length=32)
    id: str = Field(default_factory=lambda: f"{time.time_ns()}-{secrets.token_hex(4)}", pattern=r"^[0-9a-f-]{1,60}$")
    sent: float = Field(default_factory=time.time)

    @model_validator(mode="after")
    def _check_argument(self) -> Command:
        if self.kind == "stop" and self.argument not in ("", "now"):
            raise ValueError(f'stop takes no argument or "now", not {self.argument!r}')
        return self


@dataclass(frozen=True)
class RunStatus:
    """Status of a run.

    Parameters
    ----------
    alive : bool
        Whether its driver is alive, as far as this host can tell.
    state : {"running", "ended", "lost"}
        ``lost``: the driver died before it could write that it ended.
    age_s : float
        Seconds since the last heartbeat.
    driver : DriverProcess
        The driver's process.
    started : float
        Epoch second.
    status : dict
        What the driver published.
    """

    alive: bool
    state: Literal["running", "ended", "lost"]
    age_s: float
    driver: DriverProcess
    started: float
    status: dict[str, Any]


class Controller:
    """The driver's side, a context manager: it publishes a status and receives commands.

    Parameters
    ----------
    folder : Path
        The run's folder, on a disk that all login nodes see.
    interval : float
        Seconds between two heartbeats, and between two looks for commands.

    Raises
    ------
    ClusterError
        On entering, when another driver works in this folder.
    """

    def __init__(self, folder: Path, *, interval: float = 1.0) -> None:
        self.folder = Path(folder).absolute()
        self.driver = DriverProcess.current()
        self.started = time.time()
        self._interval = interval
        self._status: dict[str, Any] = {}
        self._received: list[Command] = []
        self._unanswered: set[str] = set()
        self._lock = threading.Lock()
        self._leave = threading.Event()
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
        with suppress(OSError):  # on a full disk the missing heartbeat shows that the run has ended
            self._receive()
        for name in sorted(self._unanswered):
            self._answer(name, "The run has ended.", ok=False)
        with suppress(OSError):
            self._write("ended")
        self._release()

    def publish(self, status: dict[str, Any]) -> None:
        """Set the status that `read_status` shows; it must be JSON-ready, and is written within `interval`."""
        text = json.dumps(status, allow_nan=False)  # raises here, not in the thread
        with self._lock:
            self._status = json.loads(text)

    def commands(self) -> list[Command]:
        """Commands since the last call, in order. Answer each with `acknowledge`."""
        with self._lock:
            received, self._received = self._received, []
        return received

    def acknowledge(self, command: Command, message: str, *, ok: bool = True) -> None:
        """Answer a command."""
        self._answer(command.id, message, ok=ok)

    def _run(self) -> None:
        while not self._leave.wait(self._interval):
            with suppress(OSError):  # on a full disk the run's own write reports the error
                self._write("running")
                self._receive()

    def _write(self, state: str) -> None:
        with self._lock:
            status = self._status
        record = {
            "state": state,
            "heartbeat": time.time(),
            "started": self.started,
            "owner": self.driver.model_dump(),
            "status": status,
        }
        files.write_private(self.folder / "status.json", json.dumps(record))

    def _receive(self) -> None:
        files.refresh_listing(self.folder / "commands")
        for path in sorted((self.folder / "commands").glob("*.json")):
            text = files.read_private(path)
            path.unlink(missing_ok=True)
            try:
                command = Command.model_validate_json(text or "")
            except ValidationError:
                continue
            if time.time() - command.sent > EXPIRES_AFTER:
                continue
            with self._lock:
                self._received.append(command)
                self._unanswered.add(command.id)

    def _answer(self, name: str, message: str, *, ok: bool) -> None:
        with self._lock:
            self._unanswered.discard(name)
        answer = {"id": name, "ok": ok, "message": message}
        with suppress(OSError):  # the terminal that asked reports that there is no answer
            files.write_private(self.folder / "answers" / f"{name}.json", json.dumps(answer))

    def _claim(self) -> None:
        path = self.folder / "owner.json"
        for _ in range(5):
            try:
                files.create_private(path, self.driver.model_dump_json())
                return
            except FileExistsError:
                self._remove_note_of_dead_driver(path)
        raise ClusterError(ONE_DRIVER, f"other drivers start and end in {self.folder}", "Wait until they have ended.")

    def _remove_note_of_dead_driver(self, path: Path) -> None:
        text = files.read_private(path)
        if text is None:  # removed just now, or not readable for this user
            time.sleep(0.1)
            return
        driver, heartbeat = DriverProcess.parse(text), 0.0
        with suppress(ValueError, KeyError, TypeError):
            heartbeat = float(_read_record(self.folder)["heartbeat"])
        with suppress(FileNotFoundError):
            heartbeat = max(heartbeat, path.stat().st_mtime)
        if driver is not None and _is_alive(driver, heartbeat):
            raise ClusterError(
                ONE_DRIVER,
                f"{driver} drives a run in {self.folder}",
                "Watch it with `xycd status`, end it with `xycd stop`, or choose another workspace.",
            )
        aside = path.with_name(f".owner.{secrets.token_hex(6)}")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if files.read_private(aside) != text:  # another driver was faster, and this is its note: put it back
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            aside.unlink()

    def _release(self) -> None:
        path = self.folder / "owner.json"
        driver = DriverProcess.parse(files.read_private(path) or "")
        if driver is not None and driver.token == self.driver.token:
            path.unlink(missing_ok=True)


def read_status(folder: Path) -> RunStatus:
    """Read the status of the run in `folder`; `NoRun` when there never was one."""
    folder = Path(folder)
    try:
        record = _read_record(folder)
        driver = DriverProcess.model_validate(record["owner"])
        heartbeat, started, written = float(record["heartbeat"]), float(record["started"]), str(record["state"])
        status = dict(record["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise NoRun(
            "The workspace must contain the status of a run.",
            f"no status in {folder}",
            "Check --workspace, or start a run.",
        ) from error
    alive = written == "running" and _is_alive(driver, heartbeat)
    state: Literal["running", "ended", "lost"] = "running" if alive else "ended" if written == "ended" else "lost"
    return RunStatus(alive, state, max(0.0, time.time() - heartbeat), driver, started, status)


def send(folder: Path, kind: Literal["scale", "stop"], argument: str = "", *, timeout: float = 60) -> str:
    """Send a command to the run in `folder`, and wait for the answer and return it.

    Raises
    ------
    NoRun
        When no driver is alive there.
    ClusterError
        When the command is invalid, the driver refuses it, or gives no answer within `timeout` seconds.
    """
    run = read_status(folder)
    if not run.alive:
        raise NoRun("A command needs a live run.", f"the run of {folder} has {run.state}", "Start it with `xycd run`.")
    try:
        command = Command(kind=kind, argument=argument)
    except ValidationError as error:
        raise ClusterError("A command must be valid.", error.errors()[0]["msg"], "See `xycd --help`.") from error
    folder = Path(folder).absolute()
    path, answer_path = folder / "commands" / f"{command.id}.json", folder / "answers" / f"{command.id}.json"
    try:
        files.write_private(path, command.model_dump_json())
    except OSError as error:
        raise ClusterError(
            "A command must be written to the run's folder.",
            f"{path.parent}: {error.strerror}",
            f"Free some space, or stop the run with `kill -INT {run.driver.pid}` on {run.driver.host}.",
        ) from error
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        files.refresh_listing(answer_path.parent)
        with suppress(ValueError):  # no answer yet
            answer = json.loads(files.read_private(answer_path) or "")
            answer_path.unlink(missing_ok=True)
            if not answer["ok"]:
                raise ClusterError("The run must accept the command.", str(answer["message"]), "See `xycd status`.")
            return str(answer["message"])
        time.sleep(0.2)
    path.unlink(missing_ok=True)
    raise ClusterError(
        "A run must answer commands.",
        f"no answer within {timeout:.0f} s",
        "See `xycd status`, and kill the driver if it hangs.",
    )


def _read_record(folder: Path) -> dict[str, Any]:
    """Read status.json; ValueError or TypeError when nothing is readable."""
    return dict(json.loads(files.read_private(folder / "status.json") or "null"))


def _is_alive(driver: DriverProcess, heartbeat: float) -> bool:
    """Whether the driver is alive; of one in a job on another host, SLURM knows more than the heartbeat shows."""
    if not driver.is_alive(heartbeat):
        return False
    in_job = driver.job and driver.job.isdigit() and not driver.on_this_host
    return job_is_active(driver.job or "") if in_job else True
