"""How fast a stage is, of late."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Final

WINDOW: Final = 600.0  # seconds that count
FEWEST: Final = 8  # results that count, however old: partitions may take longer than the window
TOGETHER: Final = 1.0  # seconds within which results count as one


class Rate:
    """Units a second, measured over the last results.

    What was waited before the first of them, for jobs in a queue say, doesn't count, nor does what is long past: more
    workers show within minutes.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: collections.deque[tuple[float, float]] = collections.deque()  # time, units so far

    def note(self, units: float) -> None:
        """So many units are done by now, all in all; the first call says where counting begins."""
        if self._noted and units == self._noted[-1][1]:
            return
        now = self._clock()
        if len(self._noted) > 1 and now - self._noted[-2][0] < TOGETHER:
            self._noted.pop()
        self._noted.append((now, units))
        while len(self._noted) > FEWEST and now - self._noted[1][0] > WINDOW:
            self._noted.popleft()

    def per_second(self) -> float:
        """Units a second; 0 before there are any. It falls while nothing comes."""
        if len(self._noted) < 2:
            return 0.0
        (begun, first), (_, last) = self._noted[0], self._noted[-1]
        return (last - first) / max(self._clock() - begun, 1e-9)
