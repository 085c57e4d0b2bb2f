"""What runs each network of the set `auglift`, and where its input is made.

On a GPU torch does both; on a CPU ONNX Runtime runs the networks, and OpenCV and Pillow make their inputs. Results
differ slightly, so the choice is part of the stage key. The choice is made once for a run, from its
configuration, and is the same for all workers. No framework is loaded here, but to look for a GPU that may be there.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from etl.config import Config
from etl.errors import ConfigError
from etl.models.auglift.settings import AugliftSettings, parse
from etl.store.workspace import Workspace

TORCH: Final = "torch"
ONNXRUNTIME: Final = "onnxruntime"
PACKAGES: Final = ("torch", "transformers", "mmengine", "mmcv", "mmdet", "mmpose")


def choose(config: Config, *, compute: bool) -> tuple[Config, list[str]]:
    """Name a runtime for each network, and the place of inputs, that the configuration leaves at ``auto``.

    Parameters
    ----------
    config : Config
        Of the run.
    compute : bool
        Whether networks are to run. Otherwise finished features are only merged: their runtimes are taken, and this
        machine needs neither the packages nor the device.

    Returns
    -------
    config : Config
        With the runtimes named.
    notes : list of str
        Why features that exist aren't continued, if their runtimes are others.

    Raises
    ------
    ConfigError
        When a package or a runtime isn't installed, or this machine's workers lack the device or the precision. The
        workers of a cluster check their devices themselves: a login node may have none.
    """
    settings = parse(config.models.options)
    existing = list(_choices_of_features(config, settings))
    # Only asked where it matters: torch takes seconds to import.
    gpu = functools.cache(lambda: _workers_have_gpu(config, settings))
    local = config.cluster.kind == "local"
    if compute and (local or config.cluster.slurm.python is None):
        _check_packages()
    if compute and local:
        check_device(settings, gpu)
    chosen: dict[str, str] = {}
    for option, asked in _choices(settings).items():
        usable = [found[option] for found in existing if found[option] in (TORCH, ONNXRUNTIME, "host", "device")]
        if asked != "auto":
            chosen[option] = asked
        elif usable and not compute:
            chosen[option] = usable[0]
        elif option == "inputs":
            chosen[option] = "device" if set(chosen.values()) == {TORCH} and gpu() else "host"
        else:
            chosen[option] = _by_rule(settings, gpu)
        if compute:
            check_installed(chosen[option])
    models = config.models.model_copy(update={"options": {**config.models.options, **chosen}})
    return config.model_copy(update={"models": models}), _notes(existing, chosen)


def check(options: Mapping[str, Any]) -> None:
    """Refuse a runtime that is named and isn't installed.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    for runtime in parse(options).runtimes.values():
        check_installed(runtime)


def check_installed(runtime: str) -> None:
    """Refuse ONNX Runtime where it, or what torch exports with, isn't installed.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    if runtime == ONNXRUNTIME and (missing := _missing((ONNXRUNTIME, "onnx"))):
        raise ConfigError(
            "The runtime onnxruntime must be installed where it is asked for.",
            f"no {' and no '.join(missing)}",
            f'pip install {" ".join(missing)}, or set the network\'s runtime to "auto" or "torch".',
        )


def check_device(settings: AugliftSettings, gpu: Callable[[], bool]) -> None:
    """Refuse a device that isn't there, or a precision that this machine would only emulate.

    Parameters
    ----------
    settings : AugliftSettings
        Of the set.
    gpu : callable
        Whether workers of this machine have a GPU.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    if settings.device == "cuda" or settings.precision != "fp32":
        from etl.models.engines.torch_runtime import TorchContext

        # cuda by name is an error without a GPU; auto is the CPU then.
        device = settings.device if settings.device == "cuda" or gpu() else "cpu"
        TorchContext.choose(device, settings.precision)


def sees_gpu() -> bool:
    """Whether torch can use a GPU of this machine; torch is only imported where a driver is installed."""
    if not _has_driver():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _choices(settings: AugliftSettings) -> dict[str, str]:
    """Options that this module may choose, as configured: the runtimes, then where inputs are made."""
    return {**{f"{part}_runtime": name for part, name in settings.runtimes.items()}, "inputs": settings.inputs}


def _by_rule(settings: AugliftSettings, gpu: Callable[[], bool]) -> str:
    # Exported networks compute in fp32 on the CPU.
    on_torch = settings.precision != "fp32" or _missing((ONNXRUNTIME, "onnx")) or gpu()
    return TORCH if on_torch else ONNXRUNTIME


def _workers_have_gpu(config: Config, settings: AugliftSettings) -> bool:
    if settings.device != "auto":
        return settings.device == "cuda"
    if config.cluster.kind == "slurm":
        return config.cluster.slurm.gpus > 0
    return config.cluster.local.gpus != "none" and sees_gpu()


def _has_driver() -> bool:
    """Whether a GPU's driver may be installed: NVIDIA's, which torch looks for by this name, or AMD's."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _choices_of_features(config: Config, settings: AugliftSettings) -> Iterator[dict[str, str]]:
    """Values of the options of `_choices` that made each dataset's last features, if the same networks did."""
    workspace = Workspace(config.workspace)
    for dataset in sorted(set(config.datasets.selected()).intersection(workspace.datasets())):
        key = workspace.current(dataset).features
        path = workspace.features(dataset, key or "").folder / "stage.json"
        if key is None or not path.exists():
            continue
        models = json.loads(path.read_bytes()).get("models", {})
        if all(models.get(part) == getattr(settings, part) for part in settings.runtimes) and "runtimes" in models:
            runtimes = {f"{part}_runtime": name for part, name in models["runtimes"].items()}
            yield {**runtimes, "inputs": models.get("inputs", models.get("depth_resize", "host"))}


def _notes(existing: Iterable[Mapping[str, str]], chosen: Mapping[str, str]) -> list[str]:
    """Why features that exist aren't continued."""
    notes = []
    for found in existing:
        new = " and ".join(sorted({value for option, value in chosen.items() if option != "inputs"}))
        others = {option: value for option, value in found.items() if value != chosen[option]}
        if "openvino" in found.values():
            notes.append(
                "features of this workspace were made with OpenVINO, which xycd no longer uses: new ones are made with "
                f"{new}; the old ones stay readable"
            )
        elif others:
            options = ", ".join(f'{option} = "{value}"' for option, value in others.items())
            notes.append(
                f"features of this workspace were made with other options ({options}): new ones are made with {new}; "
                "these options would continue the old ones"
            )
    return list(dict.fromkeys(notes))


def _check_packages() -> None:
    if missing := _missing(PACKAGES):
        raise ConfigError(
            "The set auglift needs the packages of the extra `openmmlab`.",
            f"no {', '.join(missing)}",
            "Run `make openmmlab` (or the pip lines in README); the embedded set works without.",
        )


def _missing(packages: Iterable[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]
