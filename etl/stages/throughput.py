"""Time that the networks of a worker wait for frames."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class WorkTimes:
    """Seconds of waiting and of work of one partition."""

    wait_s: float = 0.0  # the networks waited for frames
    model_s: float = 0.0  # the networks, or the steps around them, worked

    @property
    def waiting(self) -> float:
        """Share of waiting, 0 to 1."""
        return self.wait_s / max(self.wait_s + self.model_s, 1e-9)
