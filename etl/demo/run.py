"""The demo: render miniature datasets, run the pipeline on them, measure the files that come out, and report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """A dataset of the demo.

    Parameters
    ----------
    plan : Plan
        What is rendered, where no other number of frames is asked for.
    settings : dict of str to Any
        Of its section of the configuration, but for the root.
    """

    plan: Plan
    settings: dict[str, Any]


MINIATURES: Final = {
    "h36m": Miniature(human36m.DEMO, {"hz": 50}),
    "3dpw": Miniature(threedpw.Plan(), {}),
    "3dhp": Miniature(mpi_inf_3dhp.DEMO, {"cameras": mpi_inf_3dhp.DEMO.cameras}),
    "fit3d": Miniature(fit3d.Plan(), {}),
}


@dataclass(frozen=True)
class Bounds:
    """Bounds that the embedded networks must meet on a rendered dataset.

    Parameters
    ----------
    found : float
        Least share of the usable people who are found.
    error_px : float
        Largest median 2D error, px.
    depth_error : float
        Largest median relative error of the pelvis's depth.
    people : int
        Usable people below which the figures are too few to say anything.
    """

    found: float
    error_px: float
    depth_error: float
    people: int = 100


# The others are small, and hide people behind each other.
BOUNDS: Final = {"h36m": Bounds(found=0.98, error_px=12.0, depth_error=0.05)}


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
        bounds = BOUNDS.get(self.dataset)
        if bounds is None or self.usable < bounds.people:
            return []
        said = []
        if self.found < bounds.found * self.usable:
            said.append(f"{self.found / self.usable:.1%} of the people are found, not {bounds.found:.0%}.")
        if self.found and np.median(self.error_px) > bounds.error_px:
            said.append(f"The median 2D error is {np.median(self.error_px):.1f} px, above {bounds.error_px:g} px.")
        if self.found and np.median(self.depth_error) > bounds.depth_error:
            error = np.median(self.depth_error)
            said.append(f"The median root depth error is {error:.1%}, above {bounds.depth_error:.0%}.")
        return [f"{self.dataset}: {text}" for text in said]

    def _errors(self) -> list[str]:
        if not self.found:
            return []
        return [
            f"  2D error            median {np.median(self.error_px):.1f} px, 90 % below "
            f"{np.percentile(self.error_px, 90):.1f} px (12 limb joints)",
            f"  root depth error    median {np.median(self.depth_error):.1%}, 90 % below "
            f"{np.percentile(self.depth_error, 90):.1%}",
        ]

    def text(self) -> str:
        """A few lines for people."""
        reasons = ", ".join(f"{n} {why}" for why, n in self.failures.items()) or "none"
        unusable = f", of which {self.usable} usable" if self.usable < self.rows else ""
        return "\n".join(
            [
                f"{self.dataset}",
                f"  people in frames    {self.rows}{unusable}; found {self.found} ({self.found / self.usable:.1%})",
                f"  failures            {reasons}",
                *self._errors(),
                *(f"  training file       {path}" for path in self.outputs),
                f"  picture             {self.picture}",
                *([f"  report              {self.page}"] if self.page else []),
            ]
        )


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
        return "\n".join(
            [
                "",
                *(result.text() for result in self.datasets),
                f"{duration(self.seconds['render'])} to render, {duration(self.seconds['pipeline'])} for the pipeline "
                f"({rate:.1f} frames/s)",
                f"Look closer: the report, in a browser; or xycd query -w {self.workspace}"
                + (f" {self.datasets[0].dataset}" if len(self.datasets) > 1 else ""),
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
        chosen = MINIATURES[name]
        root, progress = folder / "raw" / name, _Rendering(report, name)
        plan = replace(chosen.plan, frames=frames or chosen.plan.frames)
        render(root, plan, workers=workers, progress=progress)
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
    """Tells a Reporter what the renderer says."""

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
    tables = [_read(path) for path in summary.outputs]
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
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


def _read(path: Path) -> dict[str, NDArray[Any]]:
    names = ("valid_annotation", "valid_detection", "predicted_keypoints", "predicted_da_depth", "part", "S")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names}


def draw_overlay(config: Config, dataset: str, path: Path, height: int = 520) -> None:
    """Write a picture of one frame a subject, if anybody was found: detections, truth (green), depths (m)."""
    panels = list(_panels(config, dataset, height))
    if panels:
        save(side_by_side(panels, height), path)


def _panels(config: Config, dataset: str, height: int) -> Iterator[Image]:
    """A frame of each subject's last sequence, cut around its people, `height` px high, with everything drawn on it."""
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
        yield draw_view(scaled(crop(view), height), discs=False)
