"""Write a report: one HTML file with figures, tables and pictures that needs no network."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from etl import __version__
from etl.alignment.hypotheses import FAULTS
from etl.alignment.judge import faulty, left_open, not_judged
from etl.errors import XycdError
from etl.report import measures
from etl.report.data import MOST_ROWS, Material, gather, notes_of
from etl.report.measures import PCK_AT
from etl.report.pictures import FailureKind, Painter, Picture, examples, failure_kinds
from etl.report.runs import in_words, runs_of
from etl.results.rows import Rows
from etl.stages.progress import duration
from etl.store.workspace import write_atomically
from schemas.skeletons import LIMB_JOINTS

_missing: ModuleNotFoundError | None = None
try:
    import jinja2
    import plotly.offline
    from markupsafe import Markup

    from etl.report import plots
except ModuleNotFoundError as error:  # the extra `report` is not installed; `write_report` raises an error
    _missing = error

TEMPLATES: Final = Path(__file__).parent / "templates"
MOST_WORKERS: Final = 40  # that are plotted
MOST_RUNS: Final = 20  # that are listed


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Parameters
    ----------
    text : str
        What it says.
    share : float, optional
        Length of the bar below it, 0 to 1.
    number : bool
        Set to the right.
    """

    text: str
    share: float | None = None
    number: bool = True


@dataclass
class Page:
    """Values that the template shows."""

    title: str
    lead: str
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    tables: dict[str, tuple[list[str], list[list[Cell]]]] = field(default_factory=dict)
    failures: list[FailureKind] = field(default_factory=list)
    gallery: dict[str, list[Picture]] = field(default_factory=dict)
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(
    root: Path,
    dataset: str | None,
    to: Path,
    *,
    raw: Path | None = None,
    depth: bool = True,
    most_rows: int = MOST_ROWS,
) -> Path:
    """Write the report of one dataset.

    Parameters
    ----------
    root : Path
        The workspace.
    dataset : str, optional
        Optional if the workspace has only one.
    to : Path
        The HTML file.
    raw : Path, optional
        Folder of the raw dataset, if it has moved since the run.
    depth : bool
        Run the models again on the shown frames to get their depth maps.
    most_rows : int
        Most rows to read.

    Returns
    -------
    Path
        `to`.

    Raises
    ------
    etl.errors.XycdError
        When there is nothing to report, the extra `report` is missing, or the file cannot be written.
    """
    if _missing is not None:
        rule = "A report needs the packages of the extra 'report'."
        raise XycdError(rule, str(_missing), "pip install 'xycd[report]'") from _missing
    material = gather(root, dataset, most_rows)
    page = build_page(material, Painter(material, raw, depth=depth))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template("report.html.j2").render(
        page=page,
        material=material,
        faulty=faulty(material.verdicts),
        not_judged=not_judged(material.verdicts),
        open_questions=[(fault, FAULTS[fault], count) for fault, count in left_open(material.verdicts).items()],
        truth=material.rows.has_truth,
        plotly_js=plotly.offline.get_plotlyjs(),
        version=__version__,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        pck_at=PCK_AT,
        apart_cm=100 * measures.APART_M,
    )
    write_atomically(to, html.encode())
    return to


def build_page(material: Material, painter: Painter) -> Page:
    """Compute the measures, plots and pictures of a page."""
    rows = material.rows
    page = Page(title=material.dataset, lead="")
    found = rows.take(rows.ok)
    cameras = material.values_of("camera")[rows.ok]
    if rows.has_truth and found.has_truth:
        _truth_plots(page, found, cameras)
    elif len(found):
        _plain_plots(page, found)
    if len(found):
        spread = 100 * (found.depth_max - found.depth_min).astype(np.float64)
        page.plots["spread"] = _html(plots.joint_ranges(spread, "depth_max − depth_min, cm", "cm"))
    for name in ("subject", "action", "camera"):
        table = measures.table_by(material.values_of(name), rows, name)
        page.tables[name] = (list(map(str, table.columns)), _cells(table))
    page.failures = failure_kinds(painter)
    chosen = measures.best_median_worst(measures.merit(rows), rows.sequence)
    page.gallery = examples(painter, chosen, lambda row: _note(material, row))
    if any(verdict.shift for verdict in material.verdicts):
        page.plots["shifts"] = _html(plots.shifts(material.verdicts))
    _throughput(page, material)
    page.facts = _provenance(material)
    page.notes = list(notes_of(material))
    page.notes += [f"pictures: {painter.problem}"] if painter.problem else []
    page.notes += [f"damaged, left out until `xycd estimate --verify`: {file}" for file in material.damaged]
    _summary(page, material)
    return page


def _html(fig: Any) -> str:
    """A plot as a fragment of HTML; plotly itself is in the page once."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return Markup(fig.to_html(full_html=False, include_plotlyjs=False, config=config))


def _truth_plots(page: Page, found: Rows, cameras: Any) -> None:
    limbs = list(LIMB_JOINTS)
    errors, relative = measures.errors_px(found), measures.relative_errors(found)
    accuracy, count = measures.ordinal_accuracy(found.depth, found.true_depth)
    page.plots |= {
        "errors": _html(plots.joint_ranges(errors, "error, px", "px")),
        "pck": _html(plots.pck_curve(relative)),
        "depth": _html(plots.depth_scatter(found, cameras)),
        "bias": _html(plots.joint_bias(found)),
        "order": _html(plots.order_map(accuracy, count)),
    }
    calibrated = measures.calibrate(found.confidence[:, limbs], relative[:, limbs])
    if calibrated is not None:
        page.plots["calibration"] = _html(plots.calibration(calibrated))
        page.plots["reliability"] = _html(plots.reliability(calibrated))
        page.figures["rank correlation"] = calibrated.rank_correlation
    line = measures.fit_line(found.depth, found.true_depth)
    page.figures |= {
        "median px": measures.quantile(errors[:, limbs], 0.5),
        "p90 px": measures.quantile(errors[:, limbs], 0.9),
        "median": measures.quantile(relative[:, limbs], 0.5),
        "pck low": measures.pck(relative[:, limbs], PCK_AT[0]),
        "pck high": measures.pck(relative[:, limbs], PCK_AT[1]),
        "depth": measures.quantile(measures.relative_depth_errors(found), 0.5),
        "order": measures.overall(accuracy, count),
        "correlation": line.correlation if line else float("nan"),
    }
    table = []
    for camera in sorted(set(cameras.tolist())):
        own = found.take(cameras == camera)
        fit = measures.fit_line(own.depth, own.true_depth)
        if fit is not None:
            figures = [f"{fit.count:,}", f"{fit.correlation:.3f}", f"{fit.scale:.3f}", f"{fit.offset:+.2f} m"]
            table.append([Cell(camera, number=False), *map(Cell, figures)])
    page.tables["lines"] = (["camera", "joints", "correlation", "scale", "offset"], table)


def _plain_plots(page: Page, found: Rows) -> None:
    page.plots |= {
        "confidences": _html(plots.histogram(found.confidence, "confidence")),
        "depths": _html(plots.histogram(found.depth, "depth, m", colour=plots.ORANGE)),
    }


def _summary(page: Page, material: Material) -> None:
    """The sentence and the key figures at the top."""
    total, ok = material.total, material.counts["ok"]
    bad = faulty(material.verdicts)
    several = bool((material.rows.person > 0).any())
    what = "annotated people are found" if several else "frames have a person"
    words = [f"{ok:,} of {total:,} {what} in {len(material.keys):,} sequences."]
    page.tiles = [
        ("people in frames" if several else "frames", f"{total:,}", f"{len(material.keys):,} sequences"),
        ("person found", _percent(ok / total), f"{total - ok:,} without"),
    ]
    if "median" in page.figures:
        f = page.figures
        words.append(
            f"Half of the limb joints lie within {f['median px']:.1f} px ({_percent(f['median'])} of the person's "
            f"size) of the annotated ones, and depth is off by {_percent(f['depth'])} in the median."
        )
        page.tiles += [
            ("2D error", f"{f['median px']:.1f} px", f"90 % below {f['p90 px']:.1f} px"),
            (f"PCK@{PCK_AT[1]:g}", _percent(f["pck high"]), f"{_percent(f['pck low'])} at {PCK_AT[0]:g}"),
            ("depth error", _percent(f["depth"]), f"order right {_percent(f['order'])}"),
        ]
    else:
        confidence = measures.quantile(material.rows.confidence, 0.5)
        page.tiles.append(("confidence", f"{confidence:.2f}", "median of all joints"))
    if material.verdicts:
        few, aligned = not_judged(material.verdicts), [v for v in material.verdicts if v.aligned]
        unsure = sum(bool(verdict.untold) for verdict in aligned)
        more = ["sequences", *([f"{len(few):,} can't be told"] if few else [])]
        more += [f"{unsure:,} leave something open"] if unsure else []
        page.tiles.append(("aligned", f"{len(aligned):,} of {len(material.verdicts):,}", "; ".join(more)))
        if bad:
            words.append(f"{len(bad):,} sequence{'s are' if len(bad) > 1 else ' is'} misaligned: {bad[0]}.")
        elif aligned:
            words.append("No sequence is misaligned." if not few else "No sequence that can be judged is misaligned.")
        if few:
            words.append(f"Of {len(few):,} it can't be told: they have too few frames with a person and an annotation.")
    if material.damaged:
        count = len(material.damaged)
        words.append(f"{count:,} damaged file{'s are' if count > 1 else ' is'} left out: see the notes.")
    if material.total > len(material.rows):
        words.append(f"Figures and plots are of {len(material.rows):,} frames, evenly taken from all sequences.")
    page.lead = " ".join(words)


def _throughput(page: Page, material: Material) -> None:
    by_worker: dict[str, list[float]] = {}
    for receipt in material.receipts:
        done = by_worker.setdefault(receipt.worker, [0.0, 0.0])
        done[0] += receipt.frames
        done[1] += receipt.seconds
    # Where there are too many to plot, those that did most.
    most = sorted(by_worker.items(), key=lambda item: -item[1][0])[:MOST_WORKERS]
    shown = sorted(most)
    labels = [name for name, _ in shown]
    values = [frames / max(seconds, 1e-9) for _, (frames, seconds) in shown]
    text = [f"{int(frames):,} frames in {seconds:,.0f} s" for _, (frames, seconds) in shown]
    page.plots["workers"] = _html(plots.rates(labels, values, text))
    frames = sum(receipt.frames for receipt in material.receipts)
    seconds = sum(receipt.seconds for receipt in material.receipts)
    executions = len(material.store.attempts())
    page.figures |= {
        "worker seconds": seconds,
        "frames per second": frames / max(seconds, 1e-9),
        "workers": float(len(by_worker)),
        "workers shown": float(len(shown)),
        "partitions": float(len(material.receipts)),
        "executions": float(executions),
        "bytes": float(sum(receipt.bytes for receipt in material.receipts)),
    }
    runs = runs_of(material.receipts)
    page.figures |= {"runs": float(len(runs)), "wall seconds": sum(run.seconds for run in runs)}
    table = []
    for run in runs[-MOST_RUNS:]:
        figures = [f"{run.partitions:,}", f"{run.frames:,}", f"{run.rate:.1f}"]
        table.append(
            [Cell(in_words(run.begin), number=False), *map(Cell, (in_words(run.end), duration(run.seconds), *figures))]
        )
    page.tables["runs"] = (["began", "ended", "took", "partitions", "frames", "frames a second"], table)


def _provenance(material: Material) -> list[tuple[str, str]]:
    """Models, parameters and versions, one a line."""
    stage = material.stage
    models = dict(stage.get("models", {}))
    facts = [
        ("dataset", material.dataset),
        ("stage key", material.store.folder.name),
        ("report", f"xycd {__version__}"),
    ]
    facts += [(f"file {name}", f"SHA-256 {digest}") for name, digest in sorted(dict(models.pop("files", {})).items())]
    for head, values in (
        ("models", models),
        ("estimate", stage.get("parameters", {})),
        ("annotations", stage.get("annotations", {})),
    ):
        facts += [(f"{head} · {name}", _value(value)) for name, value in sorted(dict(values).items())]
    return facts


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_value(inner)}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _note(material: Material, row: int) -> str:
    rows = material.rows.take(np.array([row]))
    confidence = float(np.nanmean(rows.confidence))
    if not rows.has_truth:
        return f"mean confidence {confidence:.2f}"
    limbs = list(LIMB_JOINTS)
    error = float(np.nanmean(measures.errors_px(rows)[:, limbs]))
    share = float(np.nanmean(measures.relative_errors(rows)[:, limbs]))
    return f"limb error {error:.1f} px ({_percent(share)}), mean confidence {confidence:.2f}"


_SHARES: Final = ("ok", "confidence mean", "depth order right")


def _cells(table: pd.DataFrame) -> list[list[Cell]]:
    """A table of measures as cells: shares with a bar from 0 to 1, errors with one up to the largest."""
    most = {name: float(np.nanmax([*table[name], 1e-12])) for name in table if table[name].dtype.kind == "f"}
    lines = []
    for record in table.to_dict("records"):
        line = []
        for name, value in record.items():
            if isinstance(value, str):
                line.append(Cell(value, number=False))
            elif isinstance(value, int):
                line.append(Cell(f"{value:,}"))
            elif not np.isfinite(value):
                line.append(Cell("–"))
            else:
                share = name in _SHARES or str(name).startswith("PCK")
                percent = (share and name != "confidence mean") or name == "depth error median"
                text = _percent(value) if percent else f"{value:.2f}" if value < 10 else f"{value:.1f}"
                line.append(Cell(text, float(value) if share else float(value) / most[name]))
        lines.append(line)
    return lines


def _percent(share: float) -> str:
    return "–" if not np.isfinite(share) else f"{share:.1%}" if share < 0.9995 else "100%"
