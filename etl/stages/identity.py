"""The identity of an estimate: its models and parameters, the stage key made from them, and the models themselves."""

from __future__ import annotations

import functools
import json
from typing import Any

from etl.config import EstimateSettings, ModelSettings, to_json
from etl.errors import ModelError
from etl.models import registry
from etl.models.base import Description, ModelSet
from etl.stages.blocks.people import MARGIN
from etl.store.partition import digest

VERSION = 1  # of estimate; raise it when the same frames, models and parameters give other features


def describe_models(models: ModelSettings) -> Description:
    """Return identity and embedding widths of a model set. The set is built only if it has no description."""
    found = registry.describe(models.set, cache=models.cache, **models.options)
    if found is None:
        built = build_models(models)
        found = Description(built.identity, built.channels)
    return found


def describe_stage(models: ModelSettings, settings: EstimateSettings, frames: Any) -> dict[str, Any]:
    """Everything that can change a value, and how frames are chosen and cut: what the stage key hashes.

    Parameters
    ----------
    models, settings
        As configured, with `association` resolved.
    frames : JSON-ready
        Options of the dataset that choose frames.
    """
    # No feature depends on these: maps have files of their own, whose names have their sizes.
    left_out = {"batch", "decode_ahead_mb", "embeddings"}
    parameters = settings.model_dump(mode="json", exclude=left_out) | {"embeddings": settings.embeddings.enabled}
    description = {
        "stage": f"estimate {VERSION}",
        "models": describe_models(models).identity,
        "parameters": parameters,
        "frames": frames,
    }
    if settings.association == "ground_truth_box":  # other associations don't depend on this rule
        description["boxes"] = f"joints truncated to integers, {MARGIN} px around, within the image"
    return description


def stage_key(description: dict[str, Any]) -> str:
    """Key of the folder with all features of this stage."""
    return digest(description, length=12)


@functools.lru_cache(maxsize=1)
def _cached_models(settings: str) -> ModelSet:
    # One model set for each process: building takes seconds, and two may not fit on a GPU.
    chosen = ModelSettings.model_validate_json(settings)
    return registry.build(chosen.set, cache=chosen.cache, **chosen.options)


def build_models(settings: ModelSettings) -> ModelSet:
    """Build the model set, once for each process."""
    return _cached_models(to_json(settings))


def build_planned_models(settings: ModelSettings, description: str) -> ModelSet:
    """Build the model set, and check that it is the one in the stage's description (JSON).

    Raises
    ------
    etl.errors.ModelError
        When it can't be built, or is different on this machine.
    """
    models = build_models(settings)
    planned, found = json.loads(description)["models"], json.loads(json.dumps(models.identity))
    if found != planned:
        names = [name for name in {**planned, **found} if found.get(name) != planned.get(name)]
        raise ModelError(
            "A worker must have the models that the run was planned with.",
            "; ".join(f"{name} is {found.get(name)}, planned {planned.get(name)}" for name in names),
            "Give all machines the same files and the same version of xycd, then start the run again.",
        )
    return models
