"""GPUs of a job, however a profile asks for them."""

from __future__ import annotations

from cluster.config import SlurmConfig

GPU_DIRECTIVES = ("--gpus", "--gpus-per-node", "--gpus-per-task")  # the same for a job of one task on one node


def job_gpus(config: SlurmConfig) -> int:
    """GPUs of a job, whether they are asked for by `gres` or by a directive such as --gpus-per-node=a100:2."""
    asked = [line.partition("=") for line in config.directives]
    counts = [value.rsplit(":", 1)[-1] for name, _, value in asked if name in GPU_DIRECTIVES]
    return gpus_of(config.gres) or max((int(count) for count in counts if count.isdigit()), default=0)


def gpus_of(gres: str | None) -> int:
    """GPUs of a job with this gres: gpu, gpu:2, gpu:a100:2, shard:1,gpu:2; 0 where there are none."""
    count = 0
    for part in (gres or "").split(","):
        fields = part.split(":")
        if fields[0] == "gpu":
            count += int(fields[-1]) if fields[-1].isdigit() else 1
    return count
