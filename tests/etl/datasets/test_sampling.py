import json

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.datasets.sampling import choose_rows, measure_media, picture_size, require_size, step_between
from etl.errors import DatasetError
from etl.media.frames import Media
from tests.etl.datasets.media import HEIGHT, WIDTH, write_video

IMAGES = Media("images", "pictures", "{number:03d}.jpg", first=1)
VIDEO = Media("video", "film.mp4")


@pytest.mark.parametrize(
    ("rate", "wanted", "step"), [(50, 50, 1), (50, 25, 2), (50, 10, 5), (25, 25, 1), (30, None, 1), (25, 50, 0)]
)
def test_steps_between_rates(rate, wanted, step):
    if step:
        assert step_between(rate, wanted) == step
    else:
        with pytest.raises(DatasetError, match="25 Hz, divided by a whole number"):
            step_between(rate, wanted)


def test_a_rate_without_a_step_names_those_that_have_one():
    with pytest.raises(DatasetError, match="Use 50, 25, 10") as caught:
        step_between(50, 30)
    assert caught.value.found == "30 Hz asked for"


@settings(deadline=None)
@given(st.integers(0, 300), st.none() | st.integers(0, 300), st.integers(1, 6))
def test_rows_have_a_pose_and_a_frame_and_nothing_is_left_out_silently(poses, frames, step):
    rows, notes = choose_rows(poses, frames, step)
    usable = [n for n in range(max(poses, frames or 0)) if n < poses and (frames is None or n < frames)]
    assert rows.tolist() == [n for n in usable if n % step == 0]
    assert rows.dtype == np.int32
    left_out = 0 if frames is None else abs(poses - frames)
    assert bool(notes) == bool(left_out)
    assert not notes or f"the last {left_out} " in notes[0]


def test_media_that_are_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in (1, 2, 3):
        picture = simplejpeg.encode_jpeg(np.zeros((20, 30, 3), np.uint8))
        (tmp_path / "pictures" / f"{number:03d}.jpg").write_bytes(picture)
    write_video(tmp_path / "film.mp4", 5)
    assert measure_media(tmp_path, IMAGES) == (3, 3 * len(picture), [])
    assert measure_media(tmp_path, VIDEO) == (5, (tmp_path / "film.mp4").stat().st_size, [])
    assert picture_size(tmp_path, IMAGES) == (30, 20)
    assert picture_size(tmp_path, VIDEO) == (WIDTH, HEIGHT)
    assert require_size(tmp_path, VIDEO, WIDTH, HEIGHT) == (WIDTH, HEIGHT)
    assert require_size(tmp_path, IMAGES, 30, 22, [(30, 20)]) == (30, 20)
    (tmp_path / "pictures" / "001.jpg").unlink()
    assert picture_size(tmp_path, IMAGES) == (30, 20)  # of the first that there is
    with pytest.raises(DatasetError, match=r"pictures must be 20x30") as caught:
        require_size(tmp_path, IMAGES, 20, 30)
    assert caught.value.found == "frames of 30x20"


@pytest.mark.parametrize("media", [IMAGES, VIDEO], ids=["images", "video"])
def test_media_that_are_absent_or_damaged_cost_a_note(tmp_path, media):
    count, size, notes = measure_media(tmp_path, media)
    assert (count, size) == (None, 0)
    assert media.path in json.dumps(notes)
    assert picture_size(tmp_path, media) is None
    assert require_size(tmp_path, media, 10, 10) == (10, 10)
    (tmp_path / "pictures").mkdir()
    if media == IMAGES:
        assert measure_media(tmp_path, media) == (None, 0, ["frames aren't counted: there are none in pictures"])
    (tmp_path / "pictures" / "001.jpg").write_bytes(b"\xff\xd8 no more")
    (tmp_path / "film.mp4").write_bytes(b"no film")
    assert picture_size(tmp_path, media) is None
