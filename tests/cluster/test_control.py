"""Status and commands between a driver and another terminal."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import control, files
from cluster.control import Command, Controller, read_status, send
from cluster.driver_process import STALE_AFTER, DriverProcess, disk_time
from cluster.errors import ClusterError, NoRun


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Controller]:
    with Controller(tmp_path / "run", interval=0.05) as controller:
        yield controller


def answering(run: Controller, reply: Callable[[Command], None]) -> threading.Thread:
    def drive() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for command in run.commands():
                reply(command)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=drive)
    thread.start()
    return thread


def test_status(run: Controller) -> None:
    run.publish({"stage": "estimate", "frames_done": 12})
    until(lambda: read_status(run.folder).status == {"stage": "estimate", "frames_done": 12})
    found = read_status(run.folder)
    assert (found.alive, found.state) == (True, "running")
    assert found.driver.pid == os.getpid()
    first = json.loads((run.folder / "status.json").read_text())["heartbeat"]
    until(lambda: json.loads((run.folder / "status.json").read_text())["heartbeat"] > first)


def test_status_is_json(run: Controller) -> None:
    for value in [float("nan"), {1, 2}]:
        with pytest.raises((ValueError, TypeError)):
            run.publish({"x": value})


def test_scale_is_answered(run: Controller) -> None:
    seen: list[Command] = []

    def reply(command: Command) -> None:
        seen.append(command)
        run.acknowledge(command, "12 jobs")

    thread = answering(run, reply)
    assert send(run.folder, "scale", "12") == "12 jobs"
    thread.join()
    assert [(c.kind, c.argument) for c in seen] == [("scale", "12")]
    assert not list((run.folder / "commands").iterdir())
    assert not list((run.folder / "answers").iterdir())


def test_refusal_is_passed_on(run: Controller) -> None:
    thread = answering(run, lambda command: run.acknowledge(command, "no such scale", ok=False))
    with pytest.raises(ClusterError, match="no such scale"):
        send(run.folder, "scale", "many")
    thread.join()


def test_commands_come_in_order(run: Controller) -> None:
    sent = [Command(kind="scale", argument=str(i)) for i in range(5)]
    for command in sent:
        files.write_private(run.folder / "commands" / f"{command.id}.json", command.model_dump_json())
    taken: list[Command] = []

    def all_taken() -> bool:
        taken.extend(run.commands())
        return len(taken) == 5

    until(all_taken)
    assert taken == sent


def test_no_answer(run: Controller) -> None:
    with pytest.raises(ClusterError, match="no answer within"):
        send(run.folder, "stop", timeout=0.3)


def test_end_of_run_answers_what_is_open(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said: list[str] = []

    def ask() -> None:
        try:
            send(folder, "stop")
        except ClusterError as error:
            said.append(str(error))

    with Controller(folder, interval=0.05) as run:
        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: bool(list((folder / "commands").iterdir())) or bool(run._unanswered))
    thread.join()
    assert "The run has ended." in said[0]
    assert read_status(folder).state == "ended"
    assert not (folder / "owner.json").exists()
    with pytest.raises(NoRun, match="ended"):
        send(folder, "stop")


@pytest.mark.parametrize(("kind", "argument"), [("stop", "later"), ("run", ""), ("scale", "x" * 40)])
def test_unknown_commands(run: Controller, kind: str, argument: str) -> None:
    with pytest.raises(ClusterError, match="must be valid"):
        send(run.folder, kind, argument)  # type: ignore[arg-type]


def test_rubbish_and_old_commands_are_dropped(run: Controller) -> None:
    old = Command(kind="stop", sent=time.time() - 2 * control.EXPIRES_AFTER)
    texts = {
        "1": "rubbish",
        "2": '{"kind": "stop", "id": "../../x"}',
        "3": old.model_dump_json(),
        "4": '{"kind": "exec"}',
    }
    for name, text in texts.items():
        files.write_private(run.folder / "commands" / f"{name}.json", text)
    until(lambda: not list((run.folder / "commands").iterdir()))
    assert run.commands() == []


def test_links_are_not_followed(run: Controller, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text(Command(kind="stop").model_dump_json())
    (run.folder / "commands" / "1.json").symlink_to(target)
    until(lambda: not list((run.folder / "commands").iterdir()))
    assert run.commands() == []
    assert target.exists()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRun):
        read_status(tmp_path)


def test_everything_is_the_owners_only(run: Controller) -> None:
    until(lambda: (run.folder / "status.json").exists())
    for path in [run.folder, *run.folder.rglob("*")]:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:  # a temporary name
            continue
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_two_drivers(run: Controller) -> None:
    with pytest.raises(ClusterError, match="Only one driver"), Controller(run.folder):
        pass
    until(lambda: read_status(run.folder).alive)  # and the first one is none the worse


CHILD = """
import sys, time
from pathlib import Path
from cluster.control import Controller
with Controller(Path(sys.argv[1])) as run:
    run.publish({"here": 1})
    print("ready", flush=True)
    time.sleep(600)
"""


def test_killed_driver_is_found_lost_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert read_status(folder).alive
        with pytest.raises(ClusterError, match=f"process {child.pid}"), Controller(folder):
            pass
        child.kill()
    (folder / ".status.json.0123").touch()  # killed in the middle of writing
    found = read_status(folder)
    assert (found.alive, found.state) == (False, "lost")
    with pytest.raises(NoRun, match="lost"):
        send(folder, "scale", "3")
    with Controller(folder):
        assert read_status(folder).driver.pid == os.getpid()
    assert sorted(path.name for path in folder.iterdir()) == ["answers", "commands", "status.json"]


def test_owner_on_another_host() -> None:
    elsewhere = DriverProcess(host=socket.gethostname() + "-other", pid=os.getpid(), born=0.0)
    assert elsewhere.is_alive(1000.0, now=1000.0 + STALE_AFTER - 1)
    assert not elsewhere.is_alive(1000.0, now=1000.0 + STALE_AFTER + 1)


def test_owner_here() -> None:
    me = DriverProcess.current()
    assert me.is_alive(0.0)
    assert not me.model_copy(update={"born": me.born - 1000}).is_alive(time.time()), "the id of an older process"
    with subprocess.Popen(["true"]) as child:
        pass
    assert not me.model_copy(update={"pid": child.pid}).is_alive(time.time())


def test_disk_time(tmp_path: Path) -> None:
    assert abs(disk_time(tmp_path) - time.time()) < 60
    assert not list(tmp_path.iterdir())


def test_private_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    files.private_folder(folder)
    folder.chmod(0o755)
    assert stat.S_IMODE(files.private_folder(folder).stat().st_mode) == 0o700
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ClusterError, match="private to you"):
        files.private_folder(link)
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="private to you"):
        files.private_folder(tmp_path / "file")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_folder_of_someone_else(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ClusterError, match="owner 12345"):
        files.private_folder(folder)
    path = tmp_path / "file"
    files.create_private(path, "x")
    os.chown(path, 12345, 12345)
    assert files.read_private(path) is None


def test_write_private_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.write_private(path, "one")
    path.chmod(0o644)
    files.write_private(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_does_not_end_the_run(run: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.write_private

    failed: list[Path] = []

    def full(path: Path, text: str) -> None:
        failed.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_private", full)
    until(lambda: len(failed) > 1)
    monkeypatch.setattr(files, "write_private", real)
    run.publish({"after": True})
    until(lambda: read_status(run.folder).status == {"after": True})
