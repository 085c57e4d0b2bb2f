"""The alignment judge against planted faults: how many it names, how many it leaves open, and whether it cries wolf.

    python -m benchmarks.judge [--demo DIR]

All four miniatures are rendered and run with the embedded detector in a temporary folder (minutes), or taken from DIR,
where `xycd demo --dataset all DIR` has left them. Then each fault is planted into the annotations of one sequence after
the other. `named` is the fault's own name (of a shift, with its frames;
of a rate, with its factor); `open` is what the judge says it can't tell; what is neither is wrong.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np

from benchmarks.harness import Results
from etl.alignment.fit import Finding, judge_sequence
from etl.alignment.judge import SequenceVerdict, read_track
from etl.alignment.tracks import Floats, Track
from etl.demo.run import MINIATURES, run_demo
from etl.results.features import open_features
from etl.stages.join import SequenceFiles
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17

Tracks = dict[SequenceKey, Track]
Plant = Callable[[Track, dict[str, Track]], Track]  # may change the other cameras too

SWAP = np.arange(17)
SWAP[list(H36M_17.left + H36M_17.right)] = H36M_17.right + H36M_17.left
UPPER = np.arange(17) >= 11
STRETCH = 24  # frames: of clean sequences, every such stretch is judged as well


def tracks_of(workspace: Path, dataset: str) -> Tracks:
    """Detections and annotations of every sequence that has both."""
    pairs: dict[SequenceKey, tuple[Path, list[Path]]] = {}
    for source in open_features(workspace, dataset).sources():
        with netCDF4.Dataset(source.annotation) as annotated:
            if "keypoints_2d" in annotated.variables:
                pairs.setdefault(source.key, (source.annotation, []))[1].append(source.path)
    return {key: read_track(SequenceFiles(truth, tuple(paths))) for key, (truth, paths) in sorted(pairs.items())}


def cameras_of(key: SequenceKey, tracks: Tracks) -> dict[str, Track]:
    """The same recording before other cameras."""
    folder = key.path.parent
    return {other.camera: track for other, track in tracks.items() if other != key and other.path.parent == folder}


def shifted(shift: int) -> Plant:
    """What the frame f shows is annotated for f + shift."""

    def plant(track: Track, views: dict[str, Track]) -> Track:
        place = np.arange(len(track.frame))
        return replace(track, annotated=track.annotated[np.clip(place - shift, 0, place[-1])])

    return plant


def at_rate(rate: float, *, steps: bool) -> Plant:
    """What the frame f shows is annotated for rate · f; with `steps`, poses are repeated, else interpolated."""

    def plant(track: Track, views: dict[str, Track]) -> Track:
        last = len(track.frame) - 1
        place = np.minimum(np.arange(last + 1) / rate, last)
        low = np.floor(place).astype(int)
        part = 0.0 if steps else (place - low)[:, None, None]
        annotated = (1 - part) * track.annotated[low] + part * track.annotated[np.minimum(low + 1, last)]
        return replace(track, annotated=np.asarray(annotated, np.float64))

    return plant


def of_another_camera(track: Track, views: dict[str, Track]) -> Track:
    """Exchanged with the annotations of the first other camera."""
    name = min(views)
    other = views[name]
    views[name] = replace(other, annotated=track.annotated)
    return replace(track, annotated=other.annotated)


def changed(how: Callable[[Floats], Floats]) -> Plant:
    """Annotated joints changed all alike."""
    return lambda track, views: replace(track, annotated=how(track.annotated))


EXCHANGES: dict[str, tuple[str, Plant]] = {
    "left and right exchanged": ("left_right", changed(lambda joints: joints[:, SWAP])),
    "left and right arms exchanged": (
        "left_right_arms",
        changed(lambda joints: joints[:, np.where(UPPER, SWAP, np.arange(17))]),
    ),
    "left and right legs exchanged": (
        "left_right_legs",
        changed(lambda joints: joints[:, np.where(UPPER, np.arange(17), SWAP)]),
    ),
    "x and y exchanged": ("misfit", changed(lambda joints: joints[..., ::-1])),
    "pixels doubled": ("misfit", changed(lambda joints: 2 * joints)),
    "pixels halved": ("misfit", changed(lambda joints: joints / 2)),
    "moved by 150 px": ("misfit", changed(lambda joints: joints + np.array([150, 0]))),
    "turned round the pelvis": ("misfit", changed(lambda joints: 2 * joints[:, :1] - joints)),
    "depths in mm": ("depth_unit", lambda track, views: replace(track, true_depth=1000 * track.true_depth)),
    "annotations of another camera": ("camera", of_another_camera),
}
RATES = {
    "poses between poses": ("for 2 · f", at_rate(2.0, steps=False)),
    "every pose twice": ("for 2 · f", at_rate(2.0, steps=True)),
    "every other pose left out": ("for 0.5 · f", at_rate(0.5, steps=True)),
}


def judged(tracks: Tracks) -> dict[SequenceKey, SequenceVerdict]:
    """Verdicts as merge would have them."""
    found = {}
    for key, track in tracks.items():
        judgement = judge_sequence(track, cameras_of(key, tracks))
        shift = judgement.timing.shift if judgement.timing else None
        found[key] = SequenceVerdict(str(key), "", len(track.frame), 0.0, judgement.findings, shift, judgement.untold)
    return found


def outcome(verdict: SequenceVerdict, fault: str, right: Callable[[Finding], bool] = lambda finding: True) -> str:
    """right, open (not told, or a misfit that nothing explains) or wrong.

    Arms or legs count as told where both are named: a side view may hide the others.
    """
    whole = "left_right" if fault.startswith("left_right") else fault
    if any(finding.fault in (fault, whole) and right(finding) for finding in verdict.findings):
        return "right"
    unexplained = [finding.fault for finding in verdict.findings] == ["misfit"]
    return "open" if unexplained or (not verdict.findings and fault in verdict.untold) else "wrong"


def one_by_one(
    tracks: Tracks, plant: Plant, fault: str, right: Callable[[Finding], bool] = lambda finding: True
) -> Counter[str]:
    """Outcomes of a fault planted in each sequence for itself, the others being as they are."""
    counts: Counter[str] = Counter()
    clean = judged(tracks)
    for key, track in tracks.items():
        views = cameras_of(key, tracks)
        if fault == "camera" and not (views and len(views[min(views)].frame) == len(track.frame)):
            continue
        judgement = judge_sequence(plant(track, views), views)
        shift = judgement.timing.shift if judgement.timing else None
        planted = replace(clean[key], findings=judgement.findings, shift=shift, untold=judgement.untold)
        counts[outcome(planted, fault, right)] += 1
    return counts


def shift_named(shift: int) -> Callable[[Finding], bool]:
    """Whether a finding names this shift, to the frame or about."""
    words = f"{abs(shift)} frame{'s' if abs(shift) > 1 else ''} {'later' if shift > 0 else 'earlier'}"
    return lambda finding: f"annotated {words}" in finding.text or "about" in finding.text


def named(words: str) -> Callable[[Finding], bool]:
    """Whether a finding says this."""
    return lambda finding: words in finding.text


def report(results: Results, name: str, counts: Counter[str]) -> None:
    """A line: the share that is named rightly; none may be named wrongly."""
    total = sum(counts.values())
    detail = f"{name}, {counts['right']} of {total} named, {counts['open']} open"
    results.add(detail, 100 * counts["right"] / max(total, 1), "%")
    if counts["wrong"]:
        results.add(f"  {name}, named wrongly or missed", counts["wrong"], at_most=0)


def clean(results: Results, tracks: dict[str, Tracks]) -> None:
    """False alarms."""
    for dataset, own in tracks.items():
        verdicts = judged(own)
        alarms = sum(bool(verdict.findings) for verdict in verdicts.values())
        untold = Counter(fault for verdict in verdicts.values() for fault in verdict.untold)
        words = ", ".join(f"{fault} {count}" for fault, count in sorted(untold.items())) or "nothing"
        results.add(f"clean {dataset}, {len(verdicts)} sequences, alarms", alarms, at_most=0)
        results.note(f"left open in the clean {dataset}: {words}")
    alarms = total = 0
    for own in tracks.values():
        for track in own.values():
            for first in range(0, len(track.frame) - STRETCH + 1, 4):
                part = slice(first, first + STRETCH)
                cut = Track(*(getattr(track, name)[part] for name in Track.__dataclass_fields__))
                alarms += bool(judge_sequence(cut).findings)
                total += 1
    results.add(f"clean stretches of {STRETCH} frames, {total} of them, alarms", alarms, at_most=0)


def measure(results: Results, tracks: dict[str, Tracks]) -> None:
    clean(results, tracks)
    for name, (fault, plant) in EXCHANGES.items():
        counts = sum((one_by_one(own, plant, fault) for own in tracks.values()), Counter())
        report(results, f"{name}, in all datasets", counts)
    own = tracks["h36m"]
    for size in range(1, 6):
        counts = Counter()
        for shift in (size, -size):
            counts += one_by_one(own, shifted(shift), "shift", shift_named(shift))
        report(results, f"shift of ±{size}, in one sequence of h36m", counts)
    for name, (words, plant) in RATES.items():
        report(results, f"{name}, in one sequence of h36m", one_by_one(own, plant, "rate", named(words)))


@contextmanager
def demo(folder: Path | None) -> Iterator[Path]:
    """The demo's workspace: made for the time being, or the one in `folder`."""
    if folder is not None:
        yield folder / "workspace"
        return
    with tempfile.TemporaryDirectory(prefix="xycd-judge-") as made:
        yield run_demo(Path(made), tuple(MINIATURES)).workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    results = Results("judge")
    with demo(options.demo) as workspace:
        measure(results, {dataset: tracks_of(workspace, dataset) for dataset in MINIATURES})
    results.finish()


if __name__ == "__main__":
    main()
