from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etl.datasets.human36m.reader import Human36M
from etl.demo.truth import SequenceTruth, read_truth
from etl.media.frames import Media, decode
from etl.stages.annotate import annotate
from schemas import annotation
from tests.etl.demo.conftest import SMALL
from tests.etl.stages.test_annotate import list_annotations


@pytest.mark.parametrize("hz", [50, 25, 10])
def test_annotations_project_onto_the_rendered_figure(miniature: Path, tmp_path: Path, hz: int) -> None:
    manifest = annotate(Human36M(miniature, hz=hz), tmp_path / "out")
    truths = read_truth(miniature)
    assert manifest.failures == {}
    files = list_annotations(tmp_path / "out")
    assert len(files) == len(truths)
    for path in files:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            truth = SequenceTruth.read(truths[annotation.key_of(ds)])
            frames = ds["frame_number"].values
            assert frames.tolist() == list(range(0, SMALL.frames, 50 // hz))
            camera = annotation.camera_of(ds)
            assert camera is not None
            projected = camera.project(ds["keypoints_3d"].values)
            assert np.abs(projected - truth.h36m_2d[frames]).max() < 0.01
            assert np.abs(ds["keypoints_2d"].values - truth.h36m_2d[frames]).max() < 0.01
            assert np.abs(ds["keypoints_3d"].values - truth.h36m_3d[frames]).max() < 1e-5
            media = Media.from_dict(json.loads(ds.attrs["media"]))
            images = [frame.image for frame in decode(miniature, media, frames)]
            if hz == 50:  # neighbours look too much alike at this size
                continue
            assert [truth.nearest(image) for image in images if image is not None] == frames.tolist()
