"""The demo: render miniature datasets, run the pipeline on them, measure the files that come out, and report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl import pipeline
from etl.config import Config, load
from etl.demo import fit3d, human36m, mpi_inf_3dhp, threedpw
from etl.demo.miniature import Plan, render
from etl.errors import ConfigError, XycdError
from etl.execution.summary import Summary
from etl.report.drawing import Image, View, crop, draw_view, save, scaled, side_by_side
from etl.report.page import write_report
from etl.report.show import find_sequence
from etl.report.views import frame_of
from etl.results.features import open_features
from etl.stages.progress import Reporter, Silent, duration
from schemas.features import Status
from schemas.skeletons import LIMB_JOINTS


@dataclass(frozen=True)
class Miniature:
    """A rendered dataset, and the settings of its section of the configuration, but for the root."""

    plan: Plan
    settings: dict[str, Any]


MINIATURES: Final = {
    "h36m": Miniature(human36m.DEMO, {"hz": 50}),
    "3dpw": Miniature(threedpw.Plan(), {}),
    "3dhp": Miniature(mpi_inf_3dhp.DEMO, {"cameras": mpi_inf_3dhp.DEMO.cameras}),
    "fit3d": Miniature(fit3d.Plan(), {}),
}


# Bounds that the embedded networks must meet on Human3.6M's miniature. The others are small, and hide people behind
# each other.
BOUNDED: Final = "h36m"
LEAST_FOUND: Final = 0.98  # share of the usable people
MOST_PX: Final = 12.0  # median 2D error
MOST_DEPTH: Final = 0.05  # median relative error of the pelvis's depth
LEAST_PEOPLE: Final = 100  # usable; fewer are too few to say anything


@dataclass(frozen=True)
class DatasetResult:
    """Measurements of one dataset, from the files that the demo made.

    Parameters
    ----------
    dataset : str
        Its name.
    rows, usable : int
        Annotated people in all frames, and those that the release calls usable.
    found : int
        Usable ones who were found.
    failures : dict of str to int
        Rows by reason.
    error_px : (N,) float
        Mean distance of the 12 limb joints to the truth, px, of everybody found.
    depth_error : (N,) float
        Relative error of the pelvis's depth, of everybody found.
    outputs : list of Path
        Training files.
    picture : Path
        Overlay.
    page : Path, optional
        Report; None where the packages for it are missing.
    """

    dataset: str
    rows: int
    usable: int
    found: int
    failures: dict[str, int]
    error_px: NDArray[np.float64]
    depth_error: NDArray[np.float64]
    outputs: list[Path]
    picture: Path
    page: Path | None = None

    def missed(self) -> list[str]:
        """Bounds of the dataset that its figures miss, as sentences."""
        if self.dataset != BOUNDED or self.usable < LEAST_PEOPLE:
            return []
        said = []
        if self.found < LEAST_FOUND * self.usable:
            said.append(f"{self.found / self.usable:.1%} of the people are found, not {LEAST_FOUND:.0%}.")
        if self.found and (px := np.median(self.error_px)) > MOST_PX:
            said.append(f"The median 2D error is {px:.1f} px, above {MOST_PX:g} px.")
        if self.found and (error := np.median(self.depth_error)) > MOST_DEPTH:
            said.append(f"The median root depth error is {error:.1%}, above {MOST_DEPTH:.0%}.")
        return [f"{self.dataset}: {text}" for text in said]

    def text(self) -> str:
        """A few lines for people."""
        reasons = ", ".join(f"{n} {why}" for why, n in self.failures.items()) or "none"
        unusable = f", of which {self.usable} usable" if self.usable < self.rows else ""
        lines = [
            self.dataset,
            f"  people in frames    {self.rows}{unusable}; found {self.found} ({self.found / self.usable:.1%})",
            f"  failures            {reasons}",
        ]
        if self.found:
            (px, px_90), (depth, depth_90) = (np.percentile(e, (50, 90)) for e in (self.error_px, self.depth_error))
            lines += [
                f"  2D error            median {px:.1f} px, 90 % below {px_90:.1f} px (12 limb joints)",
                f"  root depth error    median {depth:.1%}, 90 % below {depth_90:.1%}",
            ]
        lines += [f"  training file       {path}" for path in self.outputs]
        lines += [f"  picture             {self.picture}"]
        lines += [f"  report              {self.page}"] if self.page else []
        return "\n".join(lines)


@dataclass(frozen=True)
class DemoResult:
    """Measurements of the demo.

    Parameters
    ----------
    datasets : list of DatasetResult
        One a dataset that was finished.
    seconds : dict of str to float
        Wall time of rendering and of the pipeline.
    workspace : Path
        Folder of the results.
    failed : list of str
        Why datasets could not be finished.
    """

    datasets: list[DatasetResult]
    seconds: dict[str, float]
    workspace: Path
    failed: list[str] = field(default_factory=list)

    def missed(self) -> list[str]:
        """Return the bounds that are missed, as sentences."""
        return [*self.failed, *(text for result in self.datasets for text in result.missed())]

    def text(self) -> str:
        """The report that the command prints."""
        rate = sum(result.rows for result in self.datasets) / self.seconds["pipeline"]
        rendering, running = (duration(self.seconds[name]) for name in ("render", "pipeline"))
        first = f" {self.datasets[0].dataset}" if len(self.datasets) > 1 else ""
        return "\n".join(
            [
                "",
                *(result.text() for result in self.datasets),
                f"{rendering} to render, {running} for the pipeline ({rate:.1f} frames/s)",
                f"Look closer: the report, in a browser; or xycd query -w {self.workspace}{first}",
            ]
        )


def demo_config(folder: Path, datasets: Sequence[str] = ("h36m",), workers: int | None = None) -> Config:
    """The configuration that the demo runs."""
    sections = {name: {"root": str(folder / "raw" / name), **MINIATURES[name].settings} for name in datasets}
    values = {"workspace": str(folder / "workspace"), "datasets": sections, "cluster": {"workers": workers}}
    return load(None, values)


def run_demo(
    folder: Path,
    datasets: Sequence[str] = ("h36m",),
    *,
    frames: int | None = None,
    workers: int | None = None,
    report: Reporter | None = None,
) -> DemoResult:
    """Render, run and measure.

    Parameters
    ----------
    folder : Path
        Gets the raw miniatures, the workspace, and a picture and a report a dataset; what is there already is used.
    datasets : sequence of str
        Among MINIATURES.
    frames : int, optional
        Frames a sequence; by default as many as suit each dataset.
    workers : int, optional
        Processes, of the renderer and of the pipeline.
    report : Reporter, optional
        Shows progress.

    Raises
    ------
    etl.errors.XycdError
        When there is no such miniature, or the folder holds anything else.
    """
    unknown = [name for name in datasets if name not in MINIATURES]
    if unknown or not datasets:
        raise ConfigError(f"Miniatures are {', '.join(MINIATURES)}.", f"{unknown or 'none'}", "Choose among them.")
    report = report or Silent()
    config = demo_config(folder, datasets, workers)
    begun = time.monotonic()
    for name in datasets:
        plan = MINIATURES[name].plan
        plan = replace(plan, frames=frames or plan.frames)
        render(folder / "raw" / name, plan, workers=workers, progress=_Rendering(report, name))
    rendered = time.monotonic()
    summaries = pipeline.run(config, report=report)
    seconds = {"render": rendered - begun, "pipeline": time.monotonic() - rendered}
    results, failed = [], []
    for summary in summaries:
        if not summary.outputs:
            failed += [f"{summary.dataset}: {reason}" for reason in summary.failed]
            continue
        ending = "" if len(summaries) == 1 else f"-{summary.dataset}"
        picture = folder / f"overlay{ending}.png"
        draw_overlay(config, summary.dataset, picture)
        page = _report(config, summary.dataset, folder / f"report{ending}.html", report)
        results.append(measure(summary, picture, page))
    return DemoResult(results, seconds, config.workspace, failed)


def _report(config: Config, dataset: str, path: Path, report: Reporter) -> Path | None:
    """Write a dataset's report, if the packages for it are there."""
    try:
        return write_report(config.workspace, dataset, path)
    except XycdError as error:
        report.note(f"no report of {dataset}: {error}")
        return None


class _Rendering:
    """Passes the progress of the renderer on to a reporter."""

    def __init__(self, report: Reporter, name: str) -> None:
        self.report, self.name, self.done = report, name, 0

    def __call__(self, done: int, total: int) -> None:
        if self.done == 0:
            self.report.start(f"render {self.name}", total)
        self.report.advance(done - self.done)
        self.done = done
        if done == total:
            self.report.finish(f"{total} frames")


def measure(summary: Summary, picture: Path, page: Path | None = None) -> DatasetResult:
    """Compare detections with the truth in a dataset's XYCD files."""
    names = ("valid_annotation", "valid_detection", "predicted_keypoints", "predicted_da_depth", "part", "S")
    tables = []
    for path in summary.outputs:
        with np.load(path, allow_pickle=False) as file:
            tables.append({name: file[name] for name in names})
    joined = {name: np.concatenate([table[name] for table in tables]) for name in names}
    usable = joined["valid_annotation"]
    ok = usable & joined["valid_detection"]
    limbs = list(LIMB_JOINTS)
    offset = joined["predicted_keypoints"][ok][:, limbs] - joined["part"][ok][:, limbs, :2]
    truth = joined["S"][ok][:, 0, 2]
    return DatasetResult(
        dataset=summary.dataset,
        rows=len(usable),
        usable=int(usable.sum()),
        found=int(ok.sum()),
        failures={name: n for name, n in sorted(summary.rows.items()) if name != "ok"},
        error_px=np.linalg.norm(offset, axis=-1).mean(axis=1).astype(np.float64),
        depth_error=np.abs(joined["predicted_da_depth"][ok][:, 0] / truth - 1).astype(np.float64),
        outputs=summary.outputs,
        picture=picture,
        page=page,
    )


def draw_overlay(config: Config, dataset: str, path: Path, height: int = 520) -> None:
    """Write a picture of one frame a subject, if anybody was found: detections, truth (green), depths (m).

    The frame is of the subject's last sequence, cut around its people, `height` px high.
    """
    panels: list[Image] = []
    root = config.datasets.selected()[dataset].root
    keys = sorted(key for key, _ in open_features(config.workspace, dataset).files)
    for key in {key.subject: key for key in keys}.values():
        name = f"{key.subject}/{key.action}/{key.subaction}/{key.camera}"
        stored = find_sequence(config.workspace, name, dataset)
        rows = stored.rows()
        found = rows.status == Status.OK
        known = found & np.isfinite(rows.true_xy).all((1, 2))
        people = Counter(rows.frame[known if known.any() else found].tolist())
        if not people:
            continue
        # The frame in the middle, of those that show most people.
        best = [number for number in sorted(people) if people[number] == max(people.values())]
        number = best[len(best) // 2]
        with xr.open_dataset(stored.annotation, engine="netcdf4") as annotated:
            frame = frame_of(annotated, number, root, config.estimate.field_of_view)
        view = View(frame.image, stored.people(rows.take(rows.frame == number)))
        panels.append(draw_view(scaled(crop(view), height), discs=False))
    if panels:
        save(side_by_side(panels, height), path)
