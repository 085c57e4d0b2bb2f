"""What a run must know of auglift before it starts: from options and notes, without torch and without reading files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etl.errors import ConfigError, ModelError
from etl.models import registry
from etl.models.files import weights

OPTIONS = {"detector": "rtmdet-nano-person", "pose": "rtmpose-m-384x288", "depth": "depth-anything-v2-indoor-base"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {part: tmp_path / f"{part}.pth" for part in ("detector", "pose", "depth")}
    for part, path in found.items():
        path.write_bytes(part.encode())
    return found


def described(files: dict[str, Path], **options: Any) -> Any:
    found = registry.describe("auglift", **OPTIONS, **{f"{part}_file": path for part, path in files.items()}, **options)
    assert found is not None
    return found


def test_weights_are_named_by_hash_and_read_once(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = described(files)
    assert found.channels == (768, 128)
    assert found.identity["weights"]["pose"] == {"file": "pose.pth", "sha256": weights.sha256(files["pose"])}
    assert found.identity["embeddings"]["pose"]["grid"] == [9, 12]
    assert str(files["pose"].parent) not in json.dumps(found.identity)

    def read(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(weights, "sha256", read)
    assert described(files) == found
    files["pose"].write_bytes(b"others")
    with pytest.raises(AssertionError, match=r"pose\.pth is read again"):
        described(files)


def test_what_cannot_be_built_is_named(files: dict[str, Path]) -> None:
    files["depth"].unlink()
    with pytest.raises(ModelError, match=r"depth\.pth"):
        described(files)
    with pytest.raises(ConfigError, match="flip"):
        registry.describe("auglift", flip=True)


def test_a_machine_without_a_gpu_or_torch_plans_for_one_that_has_both() -> None:
    options = {**OPTIONS, "weights": "random", "device": "cuda", "precision": "fp16"}
    code = (
        "import sys; from etl.models import registry; "
        f"found = registry.describe('auglift', **{options}); "
        "print(found.identity['precision'], [m for m in ('torch', 'cv2', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "fp16 []"
