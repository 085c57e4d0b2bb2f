from __future__ import annotations

import pytest

from cluster.config import SlurmConfig
from cluster.slurm.gres import gpus_of, job_gpus


@pytest.mark.parametrize(
    ("gres", "directives", "count"),
    [
        ("gpu:2", (), 2),
        (None, (), 0),
        (None, ("--gpus-per-node=4", "--exclusive"), 4),
        (None, ("--gpus=a100:2",), 2),
        ("none", ("--gpus-per-node=2",), 2),
        ("gpu:1", ("--gpus-per-task=1",), 1),
    ],
)
def test_gpus_of_a_job(gres: str | None, directives: tuple[str, ...], count: int) -> None:
    assert job_gpus(SlurmConfig(gres=gres, directives=directives)) == count


def test_gpus_of() -> None:
    assert [gpus_of(g) for g in [None, "gpu", "gpu:2", "gpu:a100:4", "gpu:a100", "shard:3", "shard:1,gpu:2"]] == [
        0, 1, 2, 4, 1, 0, 2,
    ]  # fmt: skip
