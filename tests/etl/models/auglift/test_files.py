"""Which files auglift needs, and how they get into the cache; no network, no framework."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from etl.cli.app import app
from etl.errors import ConfigError, ModelError
from etl.models import registry
from etl.models.auglift import catalog
from etl.models.auglift import files as auglift_files
from etl.models.files import weights
from etl.models.files.sources import SOURCE_VARIABLE

DEPTH = catalog.DEPTH_ESTIMATORS["depth-anything-v2-indoor-large"]
DETECTOR = catalog.DETECTORS["rtmdet-m-person"]
POSE = catalog.POSE_ESTIMATORS["rtmpose-l-384x288"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def publishers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that stands for OpenMMLab's and the hub's, and the folder that it serves."""
    root = tmp_path / "web"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as http:
        address = f"http://127.0.0.1:{http.server_port}"
        for table, network in ((catalog.DETECTORS, DETECTOR), (catalog.POSE_ESTIMATORS, POSE)):
            content = network.name.encode() * 99
            name = f"{network.name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
            (root / name).write_bytes(content)
            moved = dataclasses.replace(network, url=f"{address}/{name}", also=())
            monkeypatch.setitem(table, network.name, moved)  # type: ignore[arg-type]
        write_hub(root, b"depth" * 1000)
        monkeypatch.setenv(auglift_files.HUB_VARIABLE, address)
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield root
        http.shutdown()
        thread.join()


def safetensors(content: bytes) -> bytes:
    """A file of one tensor."""
    tensor = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + content


def write_hub(root: Path, content: bytes, **changes: Any) -> None:
    """Files as the hub's interface gives them."""
    listing = root / "api/models" / DEPTH.repository / "tree" / DEPTH.revision
    file = root / DEPTH.repository / "resolve" / DEPTH.revision / "model.safetensors"
    for path in (listing, file):
        path.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "type": "file",
        "path": "model.safetensors",
        "oid": "of git",
        "size": len(content),
        "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)},
    }
    listing.write_text(json.dumps([{"type": "file", "path": "config.json", "size": 3, "oid": "x"}, entry | changes]))
    file.write_bytes(content)


def test_hash_prefixes_come_from_the_names() -> None:
    assert DETECTOR.sha256_prefix == "235e8209"
    assert POSE.sha256_prefix == "3f5a1437"
    assert catalog.DETECTORS["rtmdet-tiny"].sha256_prefix == "78e30dcc"
    for network in (*catalog.DETECTORS.values(), *catalog.POSE_ESTIMATORS.values()):
        int(network.sha256_prefix, 16)
        assert len(network.sha256_prefix) == 8


def test_only_the_small_transformer_is_free_for_commercial_use() -> None:
    licences = {network.size: network.licence for network in catalog.DEPTH_ESTIMATORS.values() if network.repository}
    assert licences == {"small": "Apache-2.0", "base": "CC-BY-NC-4.0", "large": "CC-BY-NC-4.0"}


def test_fetch_brings_the_default_networks_and_asks_once(publishers: Path, cache: Path) -> None:
    found = registry.fetch("auglift")
    assert [path.parent for path in found] == [cache] * 3
    assert found[0].read_bytes() == b"rtmdet-m-person" * 99
    assert found[2].name == "Depth-Anything-V2-Metric-Indoor-Large-hf.safetensors"
    registry.check("auglift")
    for path in publishers.rglob("*"):
        if path.is_file():
            path.unlink()
    assert registry.fetch("auglift") == found


def test_a_file_that_does_not_begin_as_its_name_says_is_refused(publishers: Path, cache: Path) -> None:
    (publishers / catalog.DETECTORS[DETECTOR.name].file).write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"rtmdet-m-person-[0-9a-f]{8}\.pth must have 14 bytes and the SHA-256"):
        auglift_files.fetch()
    assert not list(cache.glob("*.pth"))


def test_a_file_that_is_not_what_the_hub_lists_is_refused(publishers: Path) -> None:
    write_hub(publishers, b"depth" * 1000, lfs={"oid": "0" * 64})
    with pytest.raises(ModelError, match="SHA-256 0000"):
        auglift_files.fetch()


def test_a_hub_that_lists_no_hash_is_refused(publishers: Path) -> None:
    write_hub(publishers, b"depth", lfs=None)
    with pytest.raises(ModelError, match=r"must state the size and the SHA-256 of model\.safetensors"):
        auglift_files.fetch()


def test_from_a_folder_without_a_network(tmp_path: Path, publishers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "carried"
    folder.mkdir()
    with pytest.raises(ModelError, match="no such file"):
        auglift_files.fetch(source=folder)
    for name in ("rtmdet-m-person", "rtmpose-l-384x288"):
        (path,) = publishers.glob(f"{name}-*.pth")
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"Indoor-Large-hf\.safetensors"):
        auglift_files.fetch(source=folder)
    by_post = safetensors(b"depth by post")
    for damaged in (b"", b"garbage", by_post[:-1], by_post + b"x", b"\x00" * 9, b"\xff" * 99):
        (folder / DEPTH.file).write_bytes(damaged)
        with pytest.raises(ModelError, match=r"complete safetensors file.*Copy it again"):
            auglift_files.fetch(source=folder)
    (folder / DEPTH.file).write_bytes(by_post)
    monkeypatch.setenv(SOURCE_VARIABLE, str(folder))
    assert auglift_files.fetch()[2].read_bytes() == by_post
    registry.check("auglift")


def test_damaged_files_in_the_cache_are_no_files(publishers: Path, cache: Path) -> None:
    for path in registry.fetch("auglift"):
        whole = path.read_bytes()
        for damaged in (b"garbage", whole[::-1]):
            path.write_bytes(damaged)
            os.utime(path, ns=(1, 1))
            with pytest.raises(ModelError, match=rf"{re.escape(path.name)} must be in the cache, complete"):
                registry.check("auglift")
            assert registry.table().set_index("name").loc["auglift", "files"] == "missing"
        assert path in registry.fetch("auglift")
        assert path.read_bytes() == whole
    registry.check("auglift")


def test_weights_that_came_by_no_fetch_are_checked_by_one(publishers: Path, cache: Path) -> None:
    """Only the hub knows the hash of depth's; without it, they are at least whole."""
    registry.fetch("auglift")
    path = cache / DEPTH.file
    path.with_name(f".{path.name}.verified").unlink()
    path.write_bytes(safetensors(b"by hand"))
    with pytest.raises(ModelError, match=r"no such note.*must be fetched.*--from"):
        registry.check("auglift")
    auglift_files.fetch(source=cache)
    registry.check("auglift")
    assert path.read_bytes() == safetensors(b"by hand")


def test_other_networks_have_other_files(publishers: Path) -> None:
    with pytest.raises(ModelError, match="rtmpose-t_simcc"):
        auglift_files.check({"pose": "rtmpose-t", "detector_file": __file__})
    with pytest.raises(ConfigError, match="Choose one of rtmpose-t,"):
        auglift_files.check({"pose": "rtmpose-xxl"})


def test_the_command_fetches_what_the_configuration_names(
    publishers: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = catalog.POSE_ESTIMATORS["rtmpose-t"]
    content = b"tiny" * 50
    file = f"rtmpose-t-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (publishers / file).write_bytes(content)
    address = catalog.DETECTORS[DETECTOR.name].url.rpartition("/")[0]
    tiny = dataclasses.replace(small, url=f"{address}/{file}")
    monkeypatch.setitem(catalog.POSE_ESTIMATORS, small.name, tiny)  # type: ignore[index]
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"depth")
    config = tmp_path / "xycd.toml"
    shared = tmp_path / "shared"
    config.write_text(
        f'[models]\nset = "auglift"\ncache = "{shared}"\n[models.options]\npose = "rtmpose-t"\ndepth_file = "{mine}"\n'
    )

    def fetch(*arguments: object) -> list[Path]:
        result = CliRunner().invoke(app, ["models", "fetch", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0
        return [Path(line) for line in result.output.split()]

    detector = catalog.DETECTORS[DETECTOR.name].file
    assert fetch("--config", config) == [shared / detector, shared / tiny.file]
    assert (shared / tiny.file).read_bytes() == content
    # Without a file the set is named, and options are given one by one.
    given = ("--set", "models.options.pose=rtmpose-t", "--set", f"models.options.depth_file={mine}")
    assert fetch("auglift", *given) == [cache / detector, cache / tiny.file]
    assert fetch("auglift", "--cache", tmp_path / "other", *given)[1] == tmp_path / "other" / tiny.file
    assert fetch("auglift", "--set", "models.options.weights=random") == []
    with pytest.raises(ConfigError, match="Choose one of rtmpose-t,"):
        fetch("auglift", "--set", "models.options.pose=rtmpose-xxl")


def test_missing_weights_say_where_they_belong(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"no file .*cache/rtmdet_m_8xb32.*fetch auglift.*detector_file"):
        registry.check("auglift")


def test_given_files_and_folders_are_used(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    options = {"detector_file": tmp_path / "a.pth", "pose_file": tmp_path / "b.pth", "depth_file": tmp_path}
    found = auglift_files.paths(auglift_files.parse(options))
    assert [path.name for path in found.values()] == ["a.pth", "b.pth", "model.safetensors"]


def test_random_weights_need_no_files() -> None:
    auglift_files.check({"weights": "random"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detctor": "x"}, "detctor"),
        ({"window": 2}, "odd"),
        ({"sampling": "cubic"}, "nearest_4"),
        ({"depth_batch": 0}, "depth_batch"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auglift_files.check(options)


def test_checking_loads_no_framework() -> None:
    program = "import sys; from etl.models.auglift import files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
