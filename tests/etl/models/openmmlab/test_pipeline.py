"""The whole way of the data with the real classes of networks, small and random, on a rendered Human3.6M."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")
pytest.importorskip("onnxruntime", reason="needs the extra openmmlab")

import cluster
from cluster.config import ClusterConfig
from etl import pipeline
from etl.config import load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.execution.plan import plan as describe_run
from etl.results.features import open_features
from tests.etl.models.openmmlab import MARKS
from tests.etl.models.openmmlab.test_auglift import SMALL

pytestmark = [*MARKS, pytest.mark.slow, pytest.mark.timeout(900)]

FRAMES = 15


def test_all_stages_with_embeddings_and_statistics(tmp_path: Path) -> None:
    raw = tmp_path / "h36m"
    render(raw, Plan(subjects=("S1",), actions=("Walking",), frames=FRAMES, scale=0.3), workers=1)
    settings = {
        "workspace": str(tmp_path / "work"),
        "datasets": {"h36m": {"root": str(raw), "hz": 50}},
        "models": {"set": "auglift", "options": SMALL},
        "estimate": {"partition_frames": 8, "embeddings": {"keep_maps": True}, "descriptor": {"statistics": True}},
        "merge": {"judge": "warn"},  # random networks find nobody where somebody is
    }
    config = load(None, settings)
    with cluster.start(ClusterConfig(workers=1)) as workers:
        (summary,) = pipeline.run(config, cluster=workers)
    assert summary.rows["ok"] >= 0.9 * 2 * FRAMES
    described = describe_run(config)
    assert all(f"{SMALL[part]} on onnxruntime" in described for part in ("detector", "pose", "depth"))
    assert "0 to do" in described

    ds = open_features(config.workspace, "h36m").sel(status="ok").load()
    described = json.dumps(dict(ds.attrs))
    assert "onnxruntime" in described
    assert "rtmdet-nano-person" in described
    assert '\\"random\\": 0' in described or "'random': 0" in described or '"random\\\\\\": 0' in described
    for name, width in (("pose_embedding", 384), ("depth_embedding", 32)):
        values = ds[name].values
        assert values.dtype == np.float16
        assert values.shape[1:] == (17, width)
        assert np.isfinite(values).all()
        assert values.astype(float).std() > 0.01
    maps = open_features(config.workspace, "h36m").sel(status="ok").to_xarray(maps=True)
    for name, shape in (("pose_feature_map", (384, 4, 3)), ("depth_feature_map", (32, 8, 8))):
        values = maps[name].values
        assert values.shape == (ds.sizes["frame"], *shape)
        assert np.isfinite(values).all()
        assert values.astype(float).std() > 0.01
    features = ds["features"]
    low, middle, high = (features.sel(feature=name).values for name in ("depth_min", "depth", "depth_max"))
    valid = ds["joint_valid"].values
    assert valid.mean() > 0.9
    assert (low[valid] <= middle[valid]).all()
    assert (middle[valid] <= high[valid]).all()
    assert np.ptp(middle[valid]) > 1, "metres"
    (output,) = summary.outputs
    with np.load(output, allow_pickle=False) as file:
        assert file["rtm_joint_feats"].shape == (2 * FRAMES, 17, 384)
        assert file["dav2_joint_feats"].shape == (2 * FRAMES, 17, 32)
        assert file["casp_descriptors"].shape == (2 * FRAMES, 17, 19)
        assert file["valid_detection"].mean() >= 0.9
