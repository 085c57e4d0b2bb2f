"""The report on mutants adds up what mutmut leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import main


def leave(folder: Path, killed: int, survived: int, unchecked: int) -> None:
    """Write what mutmut leaves: exit status 1 for killed, 0 and 33 (no test) for survivors, null for not run."""
    statuses = [1] * killed + [0, 33] * (survived // 2) + [0] * (survived % 2) + [None] * unchecked
    content = {f"etl.store.disk.x_f__mutmut_{i}": status for i, status in enumerate(statuses)}
    file = folder / "mutants" / "etl" / "store" / "disk.py.meta"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"exit_code_by_key": content}))


@pytest.mark.parametrize(("killed", "survived", "status"), [(9, 1, 0), (89, 11, 1), (0, 0, 0)])
def test_rooms_below_90_percent_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    killed: int,
    survived: int,
    status: int,
) -> None:
    leave(tmp_path, killed, survived, unchecked=3)
    monkeypatch.chdir(tmp_path)
    assert main() == status
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("etl.store"))
    assert line.split()[1:5] == [str(killed), "of", str(killed + survived), "killed"]
    assert line.endswith("3 not run")
