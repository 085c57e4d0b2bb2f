"""Human3.6M, from the pose files, videos and metadata.xml of its release.

Each sequence is found under the name that metadata.xml gives it, never by its suffix, in either layout::

    S1/Videos/Directions 1.54138969.mp4                        extracted/S1/Videos/Directions 1.54138969.mp4
    S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf   extracted/S1/Poses_D2_Positions/…
    S1/MyPoseFeatures/D3_Positions_mono/…                      extracted/S1/Poses_D3_Positions_mono/…

Where there is no video, images that were extracted from it at 50 Hz serve: ``s_01_act_02_subact_01_ca_01/…_000001.jpg``
or ``S1/S1_Directions_1.54138969/…_000001.jpg``, counted from 1, in the root, in ``images`` or in ``images/images``.

2D joints are read, not projected; 3D joints are those of the camera (D3_Positions_mono), in metres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.datasets.base import FilteredReader, Sequence, build_annotation
from etl.datasets.checks import read_cdf as read_variable
from etl.datasets.checks import require_array, require_folder, require_known
from etl.datasets.geometry import doubts, measure_body, measure_reprojection
from etl.datasets.human36m.metadata import Metadata, find_metadata, read_metadata
from etl.datasets.sampling import choose_rows, measure_media, require_size, step_between
from etl.errors import DatasetError
from etl.media.frames import Media
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_32_TO_17

RATE_HZ: Final = 50.0
SPLIT_OF: Final = dict.fromkeys(("S1", "S5", "S6", "S7", "S8"), "train") | dict.fromkeys(("S9", "S11"), "val")
JOINT_SOURCE: Final = "Human3.6M D2_Positions and D3_Positions_mono, 17 of 32 joints"
POSES_2D: Final = ("MyPoseFeatures/D2_Positions", "Poses_D2_Positions")
POSES_3D: Final = ("MyPoseFeatures/D3_Positions_mono", "Poses_D3_Positions_mono")
IMAGE_FOLDERS: Final = ("", "images", "images/images")
# The release's own joints project onto each other within 1e-4 px, which is what float32 leaves of millimetres.
PROJECTION_BOUND: Final = 0.05
# Sequences of S9 whose world is displaced by +200 mm in x against the cameras' calibration.
SHIFTED: Final = frozenset({"Greeting", "SittingDown 1", "Waiting 1"})
SHIFT: Final = (0.2, 0.0, 0.0)


@dataclass(frozen=True)
class Human36M(FilteredReader):
    """Reader of Human3.6M.

    Parameters
    ----------
    root : Path
        Folder that holds ``S1``, ``S5`` … or ``extracted``; metadata.xml is in it, beside it or in ``Release-v1.2``.
    hz : {25, 50, 10}
        Rows a second; the videos have 50. Rows are frames 0, 50/hz, 2·50/hz …
    subjects, actions, cameras : sequence of str, optional
        What to keep; all by default. Actions may be called by any of the release's names.
    correct_s9_shift : bool
        Move the 3D joints of three sequences of S9 back by the 200 mm by which their world is displaced, and
        project them again: their 2D joints are displaced likewise. Published numbers mostly leave them as they are.
    """

    hz: int = 25
    correct_s9_shift: bool = False

    name: ClassVar[str] = "h36m"
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    @cached_property
    def metadata(self) -> Metadata:
        """What metadata.xml says."""
        return read_metadata(find_metadata(self._base))

    @cached_property
    def _base(self) -> Path:
        return require_folder(self.root, "Human3.6M: the folders S1, S5 and so on, or extracted")

    def sequences(self) -> list[Sequence]:
        """All sequences of the seven subjects with poses; see `DatasetReader.sequences`."""
        step_between(RATE_HZ, self.hz)
        metadata = self.metadata
        require_known("subject", self.subjects, SPLIT_OF)
        require_known("action", self.actions, [*metadata.actions, *metadata.aliases])
        require_known("camera", self.cameras, metadata.camera_names)
        folders = {subject: folder for subject in SPLIT_OF if (folder := self._subject_folder(subject))}
        absent = sorted(set(self.subjects or ()) - set(folders))
        if absent or not folders:
            raise DatasetError(
                f"{self._base} must have the pose files of {', '.join(absent) or 'one of ' + ', '.join(SPLIT_OF)}, "
                f"as in S1/{POSES_2D[0]} or extracted/S1/{POSES_2D[1]}.",
                f"only {sorted(entry.name for entry in self._base.iterdir())[:12]}",
                "Unpack Poses_D2_Positions and Poses_D3_Positions_mono there.",
            )
        wanted = None if self.actions is None else {metadata.canonical(action) for action in self.actions}
        found = [sequence for subject, folder in folders.items() for sequence in self._of_subject(subject, folder)]
        return self.select(found, actions=wanted)

    def notes(self) -> list[str]:
        """What is in the folder and isn't read, as sentences."""
        others = [f"S{n}" for n in range(1, 12) if f"S{n}" not in SPLIT_OF]
        there = [s for s in others if any((self._base / home / s).is_dir() for home in ("", "extracted"))]
        return [f"{subject} is left out: the release has no poses of it." for subject in there]

    def _subject_folder(self, subject: str) -> str | None:
        """A subject's folder, relative to the root."""
        for home in (subject, f"extracted/{subject}"):
            if any((self._base / home / kind).is_dir() for kind in (*POSES_2D, *POSES_3D)):
                return home
        return None

    def _of_subject(self, subject: str, folder: str) -> Iterator[Sequence]:
        """Sequences of which there is a pose file or a video."""
        kinds = {}
        for kind, places in {"poses_2d": POSES_2D, "poses_3d": POSES_3D, "video": ("Videos",)}.items():
            place = next((p for p in places if (self._base / folder / p).is_dir()), places[0])
            path = self._base / folder / place
            there = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
            kinds[kind] = (f"{folder}/{place}", there)
        for (owner, action, subaction), prefix in self.metadata.names.items():
            for number, camera in enumerate(self.metadata.camera_names):
                if owner != subject:
                    continue
                name = f"{prefix}.{camera}"
                names = {"poses_2d": f"{name}.cdf", "poses_3d": f"{name}.cdf", "video": f"{name}.mp4"}
                if not any(names[kind] in there for kind, (_, there) in kinds.items()):
                    continue
                video = f"{kinds['video'][0]}/{names['video']}"
                media = (
                    None if names["video"] in kinds["video"][1] else self._images(subject, action, subaction, number)
                )
                yield Sequence(
                    key=SequenceKey(self.name, subject, action, subaction, camera),
                    split=SPLIT_OF[subject],
                    release_name=name,
                    media=media or Media("video", video),
                    camera=self.metadata.cameras[subject, camera],
                    files={kind: f"{kinds[kind][0]}/{names[kind]}" for kind in ("poses_2d", "poses_3d")},
                )

    def _images(self, subject: str, action: str, subaction: int, camera: int) -> Media | None:
        """Extracted images of a sequence, if there are any."""
        metadata = self.metadata
        subject_number, action_number = int(subject[1:]), metadata.actions[action]
        numbered = f"s_{subject_number:02d}_act_{action_number:02d}_subact_{subaction:02d}_ca_{camera + 1:02d}"
        prefix = metadata.names[subject, action, subaction].replace(" ", "_")
        named = f"{subject}_{prefix}.{metadata.camera_names[camera]}"
        for home in IMAGE_FOLDERS:
            for place, stem in ((numbered, numbered), (f"{subject}/{named}", named)):
                path = f"{home}/{place}".lstrip("/")
                if (self._base / path).is_dir():
                    return Media("images", path, stem + "_{number:06d}.jpg", first=1)
        return None

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """One row a frame at the rate asked for; see `DatasetReader.annotate`."""
        camera, size_notes = self._fitting_camera(sequence)
        path_2d, path_3d = (self._base / sequence.files[kind] for kind in ("poses_2d", "poses_3d"))
        pixels = read_joints(path_2d, 2)
        points = read_joints(path_3d, 3) / 1000
        if len(pixels) != len(points):
            raise DatasetError(
                f"{path_2d} and {path_3d} must have the same number of poses.",
                f"{len(pixels)} and {len(points)}",
                "Unpack both again.",
            )
        checks = {
            "projection_px": measure_reprojection(path_3d, camera, points, pixels, PROJECTION_BOUND),
            "body": (body := measure_body(path_3d, points)),
        }
        frames_there, size, notes = self._measure_media(sequence)
        notes += [*size_notes, *doubts(body)]
        rows, left_out = choose_rows(len(points), frames_there, step_between(RATE_HZ, self.hz))
        notes += left_out
        pixels, points = pixels[rows], points[rows]
        if self.correct_s9_shift and is_shifted(sequence):
            pixels, points = undo_shift(points, camera)
            notes.append("world moved back by 200 mm in x, joints projected again")
        subject = sequence.key.subject
        name = f"{subject}_{sequence.release_name.replace(' ', '_')}"
        return build_annotation(
            sequence,
            frame_number=rows,
            keypoints_2d=pixels,
            keypoints_3d=points,
            camera=camera,
            media_bytes=size,
            rate_hz=self.hz,
            media_rate_hz=RATE_HZ,
            imgname=f"{subject}/{name}/{name}_{{number:06d}}.jpg",
            joint_source=JOINT_SOURCE,
            provenance={"notes": notes, "checks": checks},
        )

    def _fitting_camera(self, sequence: Sequence) -> tuple[Camera, list[str]]:
        """The sequence's camera for frames of the media's size, and notes.

        Sizes differ by two rows between cameras and subjects. metadata.xml says which is whose; media that have
        another of its sizes are taken as they are, with a note, and any other size is refused.
        """
        camera = sequence.camera
        assert camera is not None
        declared = (camera.width, camera.height)
        size = require_size(self._base, sequence.media, *declared, self.metadata.sizes)
        if size == declared:
            return camera, []
        note = f"frames of {size[0]}x{size[1]}, where metadata.xml says {declared[0]}x{declared[1]}"
        return replace(camera, width=size[0], height=size[1]), [note]

    def _measure_media(self, sequence: Sequence) -> tuple[int | None, int, list[str]]:
        """Frames (None where they can't be counted), bytes and notes.

        Media that are absent or unreadable cost their frames in estimate, not the annotation.
        """
        frames, size, notes = measure_media(self._base, sequence.media)
        key = sequence.key
        declared = self.metadata.frames[key.subject, key.action, key.subaction]
        expected = declared[self.metadata.camera_names.index(key.camera)]
        if frames is not None and expected and frames != expected:
            notes.append(f"{frames} frames, where metadata.xml says {expected}")
        return frames, size, notes


def read_joints(path: Path, axes: int) -> NDArray[np.float64]:
    """The 17 joints (F, 17, axes) of a pose file, in its unit, in H36M_17's order.

    Raises
    ------
    DatasetError
        When the file isn't a CDF with a finite variable ``Pose`` (1, F, 32 * axes).
    """
    values = require_array(path, "Pose", read_variable(path, "Pose"), (1, "F", 32 * axes))
    joints = values[0].reshape(-1, 32, axes)[:, list(H36M_32_TO_17)]
    return np.asarray(joints, np.float64)


def is_shifted(sequence: Sequence) -> bool:
    """Whether the sequence is one of S9's whose world is displaced."""
    return sequence.key.subject == "S9" and sequence.release_name.rpartition(".")[0] in SHIFTED


def undo_shift(points: NDArray[np.float64], camera: Camera) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Pixels (F, 17, 2) and joints (F, 17, 3) in camera coordinates after moving the world by -SHIFT.

    X_c = R X_w + t, so moving X_w by -d moves X_c by -R d.
    """
    moved = points - np.asarray(camera.rotation) @ np.asarray(SHIFT)
    return camera.project(moved), moved
