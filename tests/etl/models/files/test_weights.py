from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from etl.errors import ModelError
from etl.models.files import weights
from etl.models.files.sources import SOURCE_VARIABLE, WheelMember

CONTENT = bytes(range(256)) * 5000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def a_file(content: bytes = CONTENT, source: WheelMember | str | None = None) -> weights.ModelFile:
    source = source or "https://models.invalid/net.tflite"
    return weights.ModelFile("net.tflite", len(content), hashlib.sha256(content).hexdigest(), "MIT", source)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "net.tflite").write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(source: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=source)) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_cache_folder_is_the_variables_or_the_users(monkeypatch, tmp_path):
    assert weights.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(weights.CACHE_VARIABLE)
    assert weights.cache_folder().parts[-2:] == ("xycd", "models")


def test_fetch_from_a_folder_and_again(source, cache):
    path = weights.fetch(a_file(), source=source)
    assert path == cache / "net.tflite"
    assert path.read_bytes() == CONTENT
    assert weights.path_of(a_file()) == path
    assert names(cache) == ["net.tflite"]
    (source / "net.tflite").unlink()
    assert weights.fetch(a_file(), source=source) == path


def test_source_folder_from_the_environment(source, monkeypatch):
    monkeypatch.setenv(SOURCE_VARIABLE, str(source))
    assert weights.fetch(a_file()).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b"", CONTENT[:-1] + b"\0"])
def test_damaged_file_is_refused_then_replaced(source, damage):
    path = weights.fetch(a_file(), source=source)
    path.write_bytes(damage)
    assert not weights.is_present(a_file())
    with pytest.raises(ModelError, match="xycd models fetch"):
        weights.path_of(a_file())
    assert weights.fetch(a_file(), source=source).read_bytes() == CONTENT


def test_damaged_note_costs_a_hash_only(source, cache):
    path = weights.fetch(a_file(), source=source)
    (cache / ".net.tflite.verified").write_text("{")
    assert weights.path_of(a_file()) == path


def test_verified_file_is_not_hashed_again(source, monkeypatch):
    weights.fetch(a_file(), source=source)

    def refuse(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    weights.path_of(a_file())


def test_another_hash_for_the_same_file_is_not_covered_by_the_note(source):
    weights.fetch(a_file(), source=source)
    with pytest.raises(ModelError, match="SHA-256"):
        weights.path_of(a_file(CONTENT[:-1] + b"\0"))


@pytest.mark.parametrize("content", [b"\0" * len(CONTENT), CONTENT[:100], CONTENT * 2])
def test_wrong_content_at_the_source_is_refused(source, cache, content):
    (source / "net.tflite").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        weights.fetch(a_file(), source=source)
    error = caught.value
    assert "net.tflite" in error.rule
    assert a_file().sha256 in error.rule
    assert hashlib.sha256(content[: len(CONTENT) + 1]).hexdigest() in error.found
    assert str(source) in error.found
    assert "replace" in error.fix
    assert names(cache) == []


def test_missing_source_folder_and_file(tmp_path, source):
    with pytest.raises(ModelError, match="no such folder"):
        weights.fetch(a_file(), source=tmp_path / "nowhere")
    (source / "net.tflite").unlink()
    with pytest.raises(ModelError, match="no such file"):
        weights.fetch(a_file(), source=source)


def test_fetch_from_a_url(server, cache):
    file = a_file(source=f"{server}/net.tflite")
    assert weights.fetch(file).read_bytes() == CONTENT
    missing = a_file(CONTENT[1:], source=f"{server}/none.tflite")
    with pytest.raises(ModelError, match="404"):
        weights.fetch(missing)


def test_unreachable_url_names_the_way_without_a_network():
    file = a_file(source="http://127.0.0.1:9/net.tflite")
    with pytest.raises(ModelError, match=SOURCE_VARIABLE) as caught:
        weights.fetch(file)
    assert "127.0.0.1:9" in caught.value.rule
    assert "refused" in caught.value.found


def test_only_http_addresses():
    with pytest.raises(ModelError, match="http"):
        weights.fetch(a_file(source="file:///etc/passwd"))


def wheel_file(member: str = "pkg/net.tflite") -> weights.ModelFile:
    return a_file(source=WheelMember("pkg==1.0", member))


def test_fetch_from_a_wheel_in_the_source_folder(source):
    (source / "net.tflite").unlink()
    with zipfile.ZipFile(source / "pkg-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/net.tflite", CONTENT)
        archive.writestr("pkg/bomb.tflite", b"\0" * 10_000_000)
    assert weights.fetch(wheel_file(), source=source).read_bytes() == CONTENT
    with pytest.raises(ModelError, match="contain pkg/none"):
        weights.fetch(a_file(CONTENT[1:], WheelMember("pkg==1.0", "pkg/none")), source=source)
    with pytest.raises(ModelError, match="more than"):  # no more than the stated size is unpacked
        weights.fetch(a_file(CONTENT[1:], WheelMember("pkg==1.0", "pkg/bomb.tflite")), source=source)


def test_damaged_wheel(source):
    (source / "net.tflite").unlink()
    (source / "pkg-1.0-py3-none-any.whl").write_bytes(b"PK nonsense")
    with pytest.raises(ModelError, match="must be complete"):
        weights.fetch(wheel_file(), source=source)


def test_pip_without_a_network(monkeypatch, cache):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelError, match=r"mediapipe==0\.10\.21") as caught:
        weights.fetch("pose_detection.tflite")
    assert SOURCE_VARIABLE in caught.value.fix
    assert names(cache) == []


def test_cache_that_cannot_be_made(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=weights.CACHE_VARIABLE):
        weights.fetch(a_file(), source=source, cache=tmp_path / "file" / "cache")


def test_unknown_name_and_unknown_hash():
    with pytest.raises(ModelError, match=r"pose_detection\.tflite"):
        weights.path_of("pose.tflite")
    with pytest.raises(ModelError, match="64 hexadecimal"):
        weights.ModelFile("a", 1, "3f5a143", "MIT", "https://x.invalid/a")
    with pytest.raises(ModelError, match="plain file name"):
        weights.ModelFile("../a", 1, "0" * 64, "MIT", "https://x.invalid/a")


FETCHER = """
import hashlib, sys, time
from pathlib import Path
from etl.models.files import weights
size, sha, url, go = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
path = weights.fetch(weights.ModelFile("net.tflite", size, sha, "MIT", url))
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_two_processes_at_once_download_once(server, tmp_path, monkeypatch):
    file, go, requests = a_file(), tmp_path / "go", list[str]()

    def slow(handler: Quiet) -> None:
        requests.append(handler.path)
        time.sleep(0.5)  # so that the processes meet
        SimpleHTTPRequestHandler.do_GET(handler)

    monkeypatch.setattr(Quiet, "do_GET", slow, raising=False)
    arguments = [sys.executable, "-c", FETCHER, str(file.size), file.sha256, f"{server}/net.tflite", str(go)]
    processes = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4]) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert printed == [file.sha256, file.sha256]
    assert requests == ["/net.tflite"]


def test_the_embedded_files_are_the_registered_ones(embedded_weights: Path) -> None:
    for file in weights.FILES.values():
        path = embedded_weights / file.name
        assert path.stat().st_size == file.size
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def test_a_hash_is_noted_beside_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "net.pth", list[Path]()
    monkeypatch.setattr(
        weights, "sha256", lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    path.write_bytes(CONTENT)
    first = weights.known_sha256(path)
    assert first == hashlib.sha256(CONTENT).hexdigest()
    assert weights.known_sha256(path) == first
    assert len(read) == 1
    note = tmp_path / ".net.pth.sha256"
    assert note.stat().st_mode & 0o777 == 0o644
    # Another file under the name, with the size and time of the first: whoever loads it finds out, and fixes the note.
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=times)
    assert weights.known_sha256(path) == first
    second = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert weights.known_sha256(path, afresh=True) == weights.known_sha256(path) == second
    os.utime(path, ns=(0, 0))
    assert weights.known_sha256(path) == second
    assert len(read) == 3


@pytest.mark.parametrize("content", ["", "[]", "null", '{"sha256": 3}', '{"size": 1280000, "sha256": "abc"}', "\xff"])
def test_a_damaged_note_counts_for_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    (tmp_path / ".net.pth.sha256").write_text(content, encoding="latin1")
    assert weights.known_sha256(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_folder_of_somebody_else_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(weights.tempfile, "NamedTemporaryFile", refused)
    assert weights.known_sha256(path) == hashlib.sha256(CONTENT).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_what_is_fetched_is_noted_at_once(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "net.tflite").write_bytes(CONTENT)
    path = weights.fetch(a_file(), source=source)
    monkeypatch.setattr(weights, "sha256", lambda path: "read again")
    assert weights.known_sha256(path) == hashlib.sha256(CONTENT).hexdigest()


def test_notes_of_earlier_versions_count(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights.fetch(a_file(), source=source)
    stat = path.stat()
    noted = {"sha256": a_file().sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    (cache / ".net.tflite.verified").write_text(json.dumps(noted))
    assert weights.verified_as(path) == a_file().sha256
    (cache / ".net.tflite.sha256").unlink()  # the first versions wrote none
    assert weights.path_of(a_file()) == path
