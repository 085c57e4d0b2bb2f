"""What workers tell the driver while a partition runs: that it waits for space, that a video couldn't be staged.

They travel through dask's own event log, not through files: the one that matters most is that no file can be written.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from distributed import Client

TOPIC: Final = "xycd"
log = logging.getLogger(__name__)


def tell(kind: str, **facts: Any) -> None:
    """Tell the driver, from the thread of a task; outside of a worker, the log.

    Parameters
    ----------
    kind : str
        What about.
    **facts
        JSON-ready.
    """
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        log.warning("%s: %s", kind, ", ".join(f"{name} {value}" for name, value in facts.items()))
        return
    worker.log_event(TOPIC, {"kind": kind, "worker": worker.address, **facts})


class Inbox:
    """The driver's end."""

    def __init__(self) -> None:
        self._came: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self, client: Client) -> Iterator[None]:
        """Context in which notices of the client's workers arrive."""
        client.subscribe_topic(TOPIC, self._take)
        try:
            yield
        finally:
            client.unsubscribe_topic(TOPIC)

    def take(self) -> list[dict[str, Any]]:
        """What came since the last call, in order."""
        with self._lock:
            came, self._came = self._came, []
        return came

    def _take(self, event: tuple[float, Any]) -> None:  # in the client's own thread
        with self._lock:
            self._came.append(event[1])
