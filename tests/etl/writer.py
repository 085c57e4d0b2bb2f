"""A run that is killed again and again: python -m tests.etl.writer ROOT SEED.

Each life begins with a look for what is finished, as a run does, and ends by SIGKILL at a random moment after a few
receipts, unless nothing is left to do.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from etl.execution.resume import inspect_store, reconcile_store
from etl.store.partition import SequenceRows, cut_sequence
from etl.store.workspace import Workspace
from tests.etl import stores


def live(root: Path) -> None:
    """Adopt what an earlier life left, and write the rest."""
    folder = Workspace(root).annotations("h36m", stores.ANNOTATIONS)
    parts = []
    for path in sorted(folder.rglob("*.nc")):
        rows = SequenceRows.read(path)
        parts += cut_sequence(rows, path.relative_to(folder).as_posix(), stores.STAGE, 8, uses_boxes=False)
    store = stores.store_of(root)
    resume = inspect_store(parts, store)
    reconcile_store(resume, parts, store)
    random.shuffle(resume.todo)
    stores.estimate(root, resume.todo, channels=(32, 16))


def main(root: Path, seed: int) -> None:
    random.seed(seed)
    receipts = stores.store_of(root).receipts_path
    lives = 0
    while True:
        lives += 1
        child = os.fork()
        if child == 0:
            random.seed(seed + lives)
            live(root)
            os._exit(0)
        # By receipts and not by time alone: on a busy machine a life of a given time might do nothing, for ever.
        enough = _lines(receipts) + random.randint(1, 3)
        while _lines(receipts) < enough:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if status:
                    raise SystemExit(f"life {lives} ended with {status}")
                print(lives)
                return
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
