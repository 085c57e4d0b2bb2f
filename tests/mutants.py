"""Add up what `mutmut run` found: `python -m tests.mutants` prints the share of mutants that tests noticed, by room.

Ends with status 1 where fewer than 90 % of the mutants of a room are killed.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path

ROOMS = ("etl.stages.blocks", "etl.alignment", "etl.store", "etl.execution", "cluster")
LEAST = 0.9
KILLED = frozenset(
    {1, 3, 24, 36, 37, 152, 255, -24, -11, -9}
)  # exit status of pytest, or of mutmut after a crash or time-out
UNCHECKED = frozenset({None})


def count(folder: Path) -> dict[str, collections.Counter[str]]:
    """Count the mutants of each room by fate: killed, survived (no test reaches it, too), unchecked."""
    found: dict[str, collections.Counter[str]] = {room: collections.Counter() for room in ROOMS}
    for path in folder.rglob("*.meta"):
        for name, status in json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"].items():
            room = next((room for room in ROOMS if name.startswith(f"{room}.")), None)
            if room is not None:
                fate = "killed" if status in KILLED else "unchecked" if status in UNCHECKED else "survived"
                found[room][fate] += 1
    return found


def main() -> int:
    """Print a line for each room."""
    short = False
    for room, fates in count(Path("mutants")).items():
        ran = fates["killed"] + fates["survived"]
        share = fates["killed"] / ran if ran else 0.0
        short |= bool(ran) and share < LEAST
        print(f"{room:<20} {fates['killed']:>6,} of {ran:>6,} killed ({share:.1%}), {fates['unchecked']:,} not run")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
