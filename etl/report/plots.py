"""The interactive plots of a report. Colours are Okabe and Ito's, which colour-blind readers can distinguish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from etl.alignment.judge import SequenceVerdict
from etl.report import measures
from etl.results.rows import Rows
from schemas.skeletons import H36M_17, LIMB_JOINTS

Array = NDArray[np.floating[Any]]

BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
COLOURS: Final = (BLUE, ORANGE, GREEN, RED, SKY, PINK)
SYMBOLS: Final = ("circle", "square", "diamond", "cross", "x", "triangle-up")  # where colours don't suffice
GRID: Final = "rgba(128,128,128,0.22)"
NAMES: Final = [name.replace("_", " ") for name in H36M_17.joints]
# From the head down, so that the list reads like a body; right and left side by side.
ORDER: Final = (10, 9, 8, 14, 11, 15, 12, 16, 13, 7, 0, 1, 4, 2, 5, 3, 6)
_MOST_POINTS: Final = 6000


def figure(height: int, x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure in the report's style; the page sets the colour of its text."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "inherit", "size": 13},
            "margin": {"l": 60, "r": 16, "t": 16, "b": 50},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"},
            "xaxis": {**axis, "title": {"text": x, "font": {"size": 13}}},
            "yaxis": {**axis, "title": {"text": y, "font": {"size": 13}}},
            "hoverlabel": {"font": {"size": 12}},
            **layout,
        }
    )


def joint_ranges(values: Array, title: str, unit: str, *, digits: int = 1, scale: float = 1.0) -> go.Figure:
    """Median and 90 % of values (N, 17) of each joint, head at the top.

    Limb joints, which detector and annotation mean alike, are full; the others, made of neighbours, are hollow.
    """
    median, high = measures.per_joint(values * scale, 0.5, 0.9)
    order = list(reversed(ORDER))
    names = [NAMES[joint] for joint in order]
    fig = figure(520, title, "", showlegend=True)
    for joint in order:
        fig.add_shape(
            type="line", x0=median[joint], x1=high[joint], y0=NAMES[joint], y1=NAMES[joint],
            line={"color": "rgba(128,128,128,0.55)", "width": 2}, layer="below",
        )  # fmt: skip
    hollow = [joint not in LIMB_JOINTS for joint in order]
    for values_, name, symbols, colour in (
        (median, "median", ["circle-open" if h else "circle" for h in hollow], BLUE),
        (high, "90 % are below", ["diamond-open" if h else "diamond" for h in hollow], ORANGE),
    ):
        fig.add_scatter(
            x=[values_[joint] for joint in order], y=names, mode="markers", name=name,
            marker={"symbol": symbols, "color": colour, "size": 10, "line": {"width": 2, "color": colour}},
            hovertemplate=f"%{{y}}: %{{x:.{digits}f}} {unit}<extra>{name}</extra>",
        )  # fmt: skip
    most = float(np.nanmax([*high, 1e-9]))
    fig.update_xaxes(range=[-0.02 * most, 1.06 * most], zeroline=False)  # marks at zero are whole
    fig.update_yaxes(showgrid=True, categoryorder="array", categoryarray=names)
    return fig


def shifts(verdicts: Sequence[SequenceVerdict], most: int = 40) -> go.Figure:
    """Fitted shift of each sequence with its 95 % interval; of many, those that are farthest from none."""
    finite = [(verdict, verdict.shift) for verdict in verdicts if verdict.shift is not None]
    far = sorted(finite, key=lambda pair: (pair[1].least, abs(pair[1].value)), reverse=True)[:most]
    shown = [pair for pair in reversed(finite) if pair in far]
    fig = figure(90 + 22 * len(shown), "shift of the annotations, frames", "")
    fig.add_vline(x=0, line={"color": "rgba(128,128,128,0.8)", "dash": "dot", "width": 1.5})
    for faulty, colour in ((False, BLUE), (True, RED)):
        own = [(verdict, shift) for verdict, shift in shown if bool(verdict.findings) == faulty]
        half = [shift.half for _, shift in own]
        fig.add_scatter(
            x=[shift.value for _, shift in own], y=[verdict.sequence for verdict, _ in own], mode="markers",
            error_x={"array": half, "color": "rgba(128,128,128,0.7)", "width": 0, "thickness": 2},
            marker={"color": colour, "size": 9}, customdata=half, showlegend=False,
            hovertemplate="%{y}: %{x:+.2f} ± %{customdata:.2f} frames<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(categoryorder="array", categoryarray=[verdict.sequence for verdict, _ in shown])
    reach = max([1.5, *(abs(shift.value) + 0.5 for _, shift in shown)])
    fig.update_xaxes(range=[-reach, reach])  # wider intervals say nothing more
    return fig


def pck_curve(relative: Array) -> go.Figure:
    """Share of limb joints whose error is below a threshold, over the threshold; by pairs of limbs."""
    fig = figure(520, "threshold, % of the person's size", "joints below, %")
    thresholds = np.linspace(0, 0.2, 81)
    groups = {
        "hips": (1, 4),
        "knees": (2, 5),
        "feet": (3, 6),
        "shoulders": (11, 14),
        "elbows": (12, 15),
        "wrists": (13, 16),
    }
    for (name, joints), colour in zip(groups.items(), COLOURS, strict=True):
        finite = np.sort(relative[:, joints][np.isfinite(relative[:, joints])])
        if finite.size:
            share = np.searchsorted(finite, thresholds, side="left") / finite.size
            fig.add_scatter(
                x=100 * thresholds, y=100 * share, name=name, mode="lines", line={"color": colour, "width": 2},
                hovertemplate=f"{name}: %{{y:.1f}} % below %{{x:.2f}} %<extra></extra>",
            )  # fmt: skip
    fig.update_yaxes(range=[0, 101])
    return fig


def calibration(found: measures.Calibration) -> go.Figure:
    """Error over confidence: median and 90 % in bins of equal count."""
    fig = figure(360, "confidence", "error, % of the person's size")
    x = found.confidence
    for values, name, colour, symbol in (
        (found.p90, "90 % are below", ORANGE, "diamond"),
        (found.median, "median", BLUE, "circle"),
    ):
        fig.add_scatter(
            x=x, y=100 * values, name=name, mode="lines+markers", line={"color": colour, "width": 2},
            marker={"symbol": symbol, "size": 8}, customdata=found.count,
            hovertemplate="confidence %{x:.2f}: %{y:.1f} % (%{customdata} joints)<extra>" + name + "</extra>",
        )  # fmt: skip
    fig.update_yaxes(rangemode="tozero")
    return fig


def reliability(found: measures.Calibration) -> go.Figure:
    """Share of joints within 5 % of the person's size over confidence; a calibrated one lies on the diagonal."""
    fig = figure(360, "confidence", f"joints with an error below {measures.PCK_AT[0]:.0%}")
    fig.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated", hoverinfo="skip",
        line={"color": "rgba(128,128,128,0.8)", "dash": "dot", "width": 1.5},
    )  # fmt: skip
    fig.add_scatter(
        x=found.confidence, y=found.correct, mode="lines+markers", name="found", customdata=found.count,
        line={"color": GREEN, "width": 2}, marker={"size": 8},
        hovertemplate="confidence %{x:.2f}: %{y:.0%} (%{customdata} joints)<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(range=[0, 1.02])
    fig.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return fig


def depth_scatter(rows: Rows, cameras: NDArray[np.str_]) -> go.Figure:
    """Detected over true depth of all joints, a sample of them, coloured by camera; the diagonal is the truth."""
    fig = figure(460, "true depth of the joint, m", "detected depth, m")
    finite = np.isfinite(rows.depth) & np.isfinite(rows.true_depth)
    known = sorted(set(cameras[finite.any(1)].tolist()))
    span = rows.true_depth[finite]
    fig.add_scatter(
        x=[span.min(), span.max()], y=[span.min(), span.max()], mode="lines", name="equal", hoverinfo="skip",
        line={"color": "rgba(128,128,128,0.8)", "dash": "dot", "width": 1.5},
    )  # fmt: skip
    rng = np.random.default_rng(0)  # the same sample every time
    for number, camera in enumerate(known):
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number // len(COLOURS) % len(SYMBOLS)]
        row, joint = np.nonzero(finite & (cameras == camera)[:, None])
        most = max(_MOST_POINTS // len(known), 1)
        if len(row) > most:
            some = np.sort(rng.choice(len(row), most, replace=False))
            row, joint = row[some], joint[some]
        fig.add_scatter(
            x=_millimetres(rows.true_depth[row, joint]), y=_millimetres(rows.depth[row, joint]),
            mode="markers", name=f"camera {camera}", text=[NAMES[j] for j in joint],
            marker={"color": colour, "symbol": symbol, "size": 4, "opacity": 0.45},
            hovertemplate="%{text}: true %{x:.2f} m, detected %{y:.2f} m<extra>" + camera + "</extra>",
        )  # fmt: skip
    return fig


def _millimetres(metres: Array) -> Array:
    return np.round(metres.astype(np.float64), 3)


def joint_bias(rows: Rows) -> go.Figure:
    """Median of detected minus true depth of each joint, with the middle half."""
    offset = 100 * (rows.depth.astype(np.float64) - rows.true_depth)
    low, median, high = measures.per_joint(offset, 0.25, 0.5, 0.75)
    order = list(reversed(ORDER))
    fig = figure(460, "detected − true depth, cm", "")
    fig.add_scatter(
        x=median[order], y=[NAMES[j] for j in order], mode="markers", name="median, and the middle half",
        marker={"color": BLUE, "size": 9},
        error_x={
            "type": "data", "symmetric": False, "array": (high - median)[order], "arrayminus": (median - low)[order],
            "color": "rgba(128,128,128,0.7)", "thickness": 2, "width": 0,
        },
        hovertemplate="%{y}: %{x:.1f} cm<extra></extra>",
    )  # fmt: skip
    fig.add_vline(x=0, line={"color": "rgba(128,128,128,0.8)", "dash": "dot", "width": 1.5})
    fig.update_yaxes(categoryorder="array", categoryarray=[NAMES[j] for j in order])
    return fig


def order_map(accuracy: Array, count: NDArray[np.int64]) -> go.Figure:
    """Plot the share of the right order of depth for each pair of joints."""
    names = [NAMES[j] for j in ORDER]
    some, number = accuracy[np.ix_(ORDER, ORDER)].copy(), count[np.ix_(ORDER, ORDER)]
    np.fill_diagonal(some, np.nan)
    fig = figure(560, "", "")
    fig.add_heatmap(
        z=np.round(100 * some, 1), x=names, y=names, customdata=number, zmin=50, zmax=100, colorscale="Cividis",
        colorbar={
            "title": {"text": "right, %", "side": "right"}, "thickness": 12, "outlinewidth": 0,
            "tickvals": [50, 60, 70, 80, 90, 100], "ticktext": ["≤ 50", "60", "70", "80", "90", "100"],
        },
        hovertemplate="%{y} and %{x}: %{z:.1f} % of %{customdata}<extra></extra>", hoverongaps=False,
    )  # fmt: skip
    fig.update_xaxes(tickangle=-45, showgrid=False)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig


def histogram(values: Array, x: str, *, colour: str = BLUE, bins: int = 60) -> go.Figure:
    """Distribution of finite values (...), as shares."""
    finite = values[np.isfinite(values)].astype(np.float64)
    count, edges = np.histogram(finite, bins)
    fig = figure(300, x, "joints, %")
    fig.add_bar(
        x=(edges[1:] + edges[:-1]) / 2, y=100 * count / max(finite.size, 1), width=np.diff(edges), name=x,
        marker={"color": colour, "line": {"width": 0}}, hovertemplate="%{x:.2f}: %{y:.2f} %<extra></extra>",
    )  # fmt: skip
    fig.update_layout(bargap=0.05, showlegend=False)
    return fig


def rates(labels: Sequence[str], values: Sequence[float], text: Sequence[str]) -> go.Figure:
    """Frames a second of each worker."""
    fig = figure(80 + 34 * len(labels), "frames a second", "")
    fig.add_bar(
        x=list(values), y=list(labels), orientation="h", text=list(text), textposition="auto", name="rate",
        marker={"color": BLUE}, hovertemplate="%{y}: %{x:.2f} frames/s<extra></extra>",
    )  # fmt: skip
    fig.update_layout(showlegend=False, bargap=0.35)
    return fig
