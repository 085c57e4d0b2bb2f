"""The configuration: TOML and the command line become frozen, validated models.

A file may have any part of it. A missing key has its default; an unknown key is refused by name::

    workspace = "/scratch/me/xycd"

    [datasets.h36m]
    root = "/data/h36m"
    hz = 25

    [models]
    set = "embedded"

    [cluster]
    workers = 8
"""

from __future__ import annotations

from etl.config.loading import load, parse_assignments
from etl.config.models import (
    Config,
    DatasetSettings,
    DescriptorConfig,
    EmbeddingSettings,
    EstimateSettings,
    MergeSettings,
    ModelSettings,
    to_json,
)

__all__ = [
    "Config",
    "DatasetSettings",
    "DescriptorConfig",
    "EmbeddingSettings",
    "EstimateSettings",
    "MergeSettings",
    "ModelSettings",
    "load",
    "parse_assignments",
    "to_json",
]
