"""Options of the model set `embedded`. LiteRT isn't imported, so that they can be checked anywhere."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from etl.errors import ConfigError

Tiles = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Parameters:
    """Every setting that can change a value.

    Parameters
    ----------
    detector_score : float
        Least score of the detector's proposals.
    landmark_score : float
        Least score by which the landmark network confirms a person.
    suppression : float
        Overlap above which boxes of the detector belong to one person.
    padding : float
        Of the region that the landmark network sees, around the body's circle.
    apart : float
        Distance of the hips, relative to the body's circle, below which two people count as one.
    inside : float
        Share of a box inside another box above which a person found in a tile counts as a part of the other person.
    tiles : {"auto", "always", "never"}
        Whether to search overlapping tiles for small people: only where larger views show nobody for sure (auto),
        in every frame, or never.
    sure_score : float
        Score of the landmark network above which a person is there for sure.
    smallest : float
        Height in px of the smallest person that tiles look for.
    tile_ratio : float
        Side of a tile, in heights of the person that it is meant for.
    """

    detector_score: float = 0.5
    landmark_score: float = 0.5
    suppression: float = 0.3
    padding: float = 1.25
    apart: float = 0.35
    inside: float = 0.7
    tiles: Tiles = "auto"
    sure_score: float = 0.9
    smallest: float = 80.0
    tile_ratio: float = 3.5

    def __post_init__(self) -> None:
        if self.tiles not in ("auto", "always", "never"):
            raise ConfigError("tiles must be 'auto', 'always' or 'never'.", f"tiles = {self.tiles!r}", "Choose one.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "tiles" and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ConfigError(
                    f"{field.name} must be a positive number.", f"{field.name} = {value!r}", "Choose one."
                )
            if field.name != "tiles":
                object.__setattr__(self, field.name, float(value))  # 80 and 80.0 have one identity
        if not (self.smallest >= 16 and self.tile_ratio >= 1):
            raise ConfigError(
                "smallest must be at least 16 px, and tile_ratio at least 1.",
                f"smallest = {self.smallest}, tile_ratio = {self.tile_ratio}",
                "Raise them.",
            )


def parse(options: Mapping[str, Any]) -> tuple[int, Parameters]:
    """Validate options; return the threads of each network and the parameters.

    Raises
    ------
    ConfigError
        When an option is unknown or out of range.
    """
    known = {"threads", *(field.name for field in fields(Parameters))}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ConfigError(
                "Options of the set embedded must be known.", f"unknown option {name!r}", f"Did you mean {near[0]!r}?"
            )
    threads = options.get("threads", 1)
    if not (isinstance(threads, int) and threads >= 1):
        raise ConfigError("threads must be a whole number of at least 1.", f"threads = {threads!r}", "Choose one.")
    return threads, Parameters(**{name: value for name, value in options.items() if name != "threads"})
