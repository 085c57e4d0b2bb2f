"""Text that `xycd status` prints about a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from etl.stages.progress import duration

if TYPE_CHECKING:
    from cluster.slurm.commands import QueuedJob

DECODE_BOUND: Final = 0.2  # a run whose models wait for frames for a larger share of their time is decode-bound


def pending_text(job: QueuedJob) -> str:
    """One line about a detached driver whose job is still pending."""
    reason = job.reason.strip("()")
    why = f" ({reason})" if reason not in ("", "None") else ""
    return f"run          to be driven by job {job.id}, {job.state.lower()}{why}"


def status_text(found: Any) -> str:
    """Print form of a `cluster.control.RunStatus`, a few lines."""
    facts: dict[str, Any] = found.status
    age = f"{duration(time.time() - found.started)} since it began"
    lines = [f"run          {found.state}, {age}, {found.driver}"]
    if "rows_total" in facts:
        share, unit = facts["rows_done"] / max(1, facts["rows_total"]), facts.get("unit", "frames")
        lines.append(f"stage        {facts['stage']} {facts['dataset']}{', stopping' if facts.get('stopping') else ''}")
        lines.append(f"{unit:<12} {facts['rows_done']:,} of {facts['rows_total']:,} ({share:.1%})")
        left = f", {duration(facts['seconds_left'])} left" if facts["seconds_left"] is not None else ""
        lines.append(f"rate         {facts['rate']:,} {unit}/s{left}")
        if facts.get("waiting") is not None:
            # More workers help a model-bound run; a faster disk or more CPU cores help a decode-bound one.
            bound = "decode-bound" if facts["waiting"] > DECODE_BOUND else "model-bound"
            lines.append(f"pace         {bound}: the models wait for frames {facts['waiting']:.0%} of the time")
        partitions = f", {facts['failed_partitions']:,} partitions" if "failed_partitions" in facts else ""
        lines.append(f"failures     {facts['failed_rows']:,} {unit}{partitions}")
        workers = {k: v for k, v in facts["workers"].items() if v not in (None, [], {})}
        lines += [f"{name:<13}{_words(value)}" for name, value in workers.items()]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
