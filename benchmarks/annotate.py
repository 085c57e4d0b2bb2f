"""Annotate a simulated Human3.6M of full size: 840 sequences, 2.1 million poses, videos as stubs.

    python -m benchmarks.annotate [--folder DIR] [--share 0.03] [--hz 50]

Everything that `xycd annotate h36m` does, in a fresh process on two cores: pose files are read, checked and written as
labelled datasets, videos counted without decoding, and MMPose's files exported. Pose files of a subject and camera are
links to one file, whose joints that camera really projects onto its pixels, so that every check is made. About 5 GB in
a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil

from benchmarks.harness import Results, cores, cpu_seconds
from etl import pipeline
from etl.config import load
from etl.datasets.human36m.metadata import read_metadata
from etl.datasets.human36m.reader import SPLIT_OF
from etl.demo.human36m import write_metadata, write_poses
from schemas.skeletons import H36M_32_TO_17

FRAMES = 2500  # of a sequence: 840 of them have 2.1 million
BYTES_A_ROW = 2300  # annotations and exported files
# A standing body, world coordinates, metres; see H36M_17.
BODY = np.array(
    [
        [0, 0, 0.9], [-0.13, 0, 0.9], [-0.13, 0, 0.47], [-0.13, 0, 0.05],
        [0.13, 0, 0.9], [0.13, 0, 0.47], [0.13, 0, 0.05],
        [0, 0, 1.15], [0, 0, 1.4], [0, -0.08, 1.5], [0, 0, 1.65],
        [0.15, 0, 1.35], [0.18, 0, 1.08], [0.2, -0.05, 0.85], [-0.15, 0, 1.35], [-0.18, 0, 1.08], [-0.2, -0.05, 0.85],
    ]
)  # fmt: skip


def write_release(root: Path, share: float = 1.0, frames: int = FRAMES) -> int:
    """Write the raw files, links where they are equal; how many sequences there are.

    Parameters
    ----------
    root : Path
        The dataset's root.
    share : float
        Of the recordings of each subject.
    frames : int
        Of each sequence.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_metadata(root / "metadata.xml", {})
    metadata = read_metadata(root / "metadata.xml")
    stubs = {size: root / f"stub-{size[0]}x{size[1]}.mp4" for size in metadata.sizes}
    for size, stub in stubs.items():
        _write_stub(stub, frames, size)
    world = BODY + np.cumsum(np.random.default_rng(0).normal(0, 0.002, (frames, 1, 3)), 0)
    sequences = 0
    for subject in SPLIT_OF:
        prefixes = [prefix for (owner, _, _), prefix in metadata.names.items() if owner == subject]
        prefixes = prefixes[: max(round(share * len(prefixes)), 1)]
        for camera in metadata.camera_names:
            model = metadata.cameras[subject, camera]
            points = model.world_to_camera(world)
            for place, joints in (("D2_Positions", model.project(points)), ("D3_Positions_mono", points * 1000)):
                first = root / f"{subject}-{camera}-{place}.cdf"
                full = np.zeros((frames, 32, joints.shape[-1]))
                full[:, list(H36M_32_TO_17)] = joints
                write_poses(first, full)
                for prefix in prefixes:
                    link(first, root / subject / "MyPoseFeatures" / place / f"{prefix}.{camera}.cdf")
            for prefix in prefixes:
                link(stubs[model.width, model.height], root / subject / "Videos" / f"{prefix}.{camera}.mp4")
                sequences += 1
    return sequences


def _write_stub(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A video of `frames` black frames of `size`, as small as can be."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50, options={"preset": "ultrafast"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), "rgb24")
        for number in range(frames):
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def link(source: Path, target: Path) -> None:
    """Hard link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


class Peak:
    """Largest sum of the resident memory of this process and its children, sampled; pages they share count twice."""

    def __init__(self) -> None:
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.2):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measure(raw: Path, work: Path, hz: int, result: Path) -> None:
    """Annotate in this process, which is fresh, on two cores, twice; write down what it took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cores()[:2]))
    config = load(None, {"workspace": str(work), "datasets": {"h36m": {"root": str(raw), "hz": hz}}})
    facts: dict[str, float] = {}
    with Peak() as peak:
        for name in ("first", "again"):
            begun, cpu = time.perf_counter(), cpu_seconds()
            (summary,) = pipeline.run(config, stages=("annotate",))
            facts |= {f"{name}_seconds": time.perf_counter() - begun, f"{name}_cpu": cpu_seconds() - cpu}
    # Not ru_maxrss, which a new process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    facts |= {"all_bytes": peak.bytes, "own_bytes": int(status["VmHWM"].split()[0]) * 1024}
    facts |= {"sequences": summary.sequences, "failed": len(summary.failed)}
    result.write_text(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to simulate; the default is a temporary folder")
    parser.add_argument("--share", type=float, default=1.0, help="of the recordings")
    parser.add_argument("--hz", type=int, default=50, help="rows a second; 50 takes all poses")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="annotate-"))
    results = Results("annotate")
    try:
        needed, free = 840 * FRAMES * options.share * options.hz / 50 * BYTES_A_ROW, shutil.disk_usage(folder).free
        if needed > free:
            raise SystemExit(f"about {needed / 1e9:.0f} GB needed in {folder}, {free / 1e9:.0f} GB free")
        sequences = write_release(folder / "raw", options.share)
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(folder / "raw", folder / "work", options.hz, folder / "result.json")
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        found = json.loads((folder / "result.json").read_text())
        if found["sequences"] != sequences or found["failed"]:
            raise SystemExit(f"{found['sequences']} of {sequences} sequences, {found['failed']} failed")
        training = folder / "work" / "training"
        rows = 0
        for path in training.glob("h36m_*.npz"):
            with np.load(path, allow_pickle=False) as file:
                rows += len(file["scale"])
        whole = options.share == 1
        what = f"{sequences} sequences, {sequences * FRAMES / 1e6:.2g} M poses"
        results.add(f"annotate {what}, wall time", found["first_seconds"], "s", at_most=300 if whole else None)
        results.add("its processor time, both cores", found["first_cpu"], "s")
        results.add("its memory, all processes", found["all_bytes"] / 1e9, "GB", at_most=2)
        results.add("its memory, main process", found["own_bytes"] / 1e9, "GB")
        results.add("annotate again, nothing changed", found["again_seconds"], "s")
        results.note(f"{rows:,} rows at {options.hz} Hz; MMPose's npz and cameras are part of it")
        results.finish()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
