"""Renders a miniature Human3.6M in the release's own raw layout, with the truth beside it.

::

    DIR/metadata.xml
    DIR/S1/Videos/Directions 1.54138969.mp4                                 H.264, 50 Hz
    DIR/S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf            px
    DIR/S1/MyPoseFeatures/D3_Positions/Directions 1.cdf                     world, mm
    DIR/S1/MyPoseFeatures/D3_Positions_mono/Directions 1.54138969.cdf       camera, mm
    DIR/S1/MyPoseFeatures/…/_ALL 1.54138969.cdf                             the range of motion, which no one reads
    DIR/truth/S1/Directions 1.54138969.npz                                  etl.demo.recording
    DIR/xycd-demo.json                                                      what this folder is

As in the release, some videos are longer than their poses and some shorter, files have irregular names, and image sizes
depend on camera and subject; what `xycd demo` renders, DEMO, has all of that.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from etl.demo import miniature, raw_human36m
from etl.demo.miniature import act, joints_of
from etl.demo.motions import MOTIONS
from etl.demo.raw_media import write_video
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

RATE: Final = 50
CUT: Final = 2  # frames by which videos of `Plan.extra` are shorter than their poses


@dataclass(frozen=True)
class Plan(miniature.Plan):
    """Plan of the rendered dataset; see `miniature.Plan`.

    Parameters
    ----------
    subjects, actions, cameras : tuple of str
        Canonical names; actions are among etl.demo.motions.MOTIONS.
    subactions : tuple of int
        1, 2 or both.
    extra : tuple of (subject, action, subaction, camera)
        Single sequences beside all these, whose videos end CUT frames before their poses.
    """

    dataset: ClassVar[str] = "h36m"
    choices: ClassVar = {
        "subjects": raw_human36m.SUBJECTS, "actions": tuple(MOTIONS), "cameras": raw_human36m.CAMERAS,
        "subactions": (1, 2),
    }  # fmt: skip

    frames: int = 50
    scale: float = 1.0
    subjects: tuple[str, ...] = ("S1", "S5", "S9")
    actions: tuple[str, ...] = ("Directions", "Walking")
    cameras: tuple[str, ...] = ("54138969", "55011271")
    subactions: tuple[int, ...] = (1,)
    extra: tuple[tuple[str, str, int, str], ...] = ()

    def sequences(self) -> list[SequenceKey]:
        """Every recording before every camera, then `extra`."""
        recordings = list(itertools.product(self.subjects, self.actions, self.subactions))
        every = [(*recording, camera) for camera in self.cameras for recording in recordings]
        return [SequenceKey(self.dataset, *names) for names in (*every, *self.extra)]

    def video_frames(self, key: SequenceKey) -> int:
        """As in the release, some videos are longer than their poses, and those of `extra` are shorter."""
        recording = (key.subject, key.action, key.subaction)
        if (*recording, key.camera) in self.extra:
            return max(self.frames - CUT, 1)
        # Longer are those of the first recording before the second and third camera.
        first = recording == (self.subjects[0], self.actions[0], self.subactions[0])
        return self.frames + (first and key.camera in raw_human36m.CAMERAS[1:3])

    def record(self, folder: Path, key: SequenceKey) -> None:
        """Write one video with its poses and its truth."""
        camera = raw_human36m.camera_of(key.subject, key.camera, self.scale)
        name = f"{raw_human36m.file_prefix(key.subject, key.action, key.subaction)}.{key.camera}"
        scene = Scene(camera)
        filmed = self.video_frames(key)
        actors = [actor_at(key.subject, key.action, key.subaction, n) for n in range(max(filmed, self.frames))]
        moments = ((scene, (actor,)) for actor in actors[:filmed])
        images = film(folder, f"{key.subject}/{name}", key, moments)
        write_video(folder / key.subject / "Videos" / f"{name}.mp4", images, RATE)
        _write_poses(folder / key.subject / "MyPoseFeatures", name, camera, actors[: self.frames])

    def finish(self, folder: Path) -> None:
        """Write the world's poses, those of the range of motion, and metadata.xml."""
        for subject, name in itertools.product(self.subjects, self.cameras):
            camera = raw_human36m.camera_of(subject, name, self.scale)
            stem = f"{raw_human36m.file_prefix(subject, 'Miscellaneous', 1)}.{name}"
            still = [actor_at(subject, self.actions[0], 1, 0)] * self.frames
            _write_poses(folder / subject / "MyPoseFeatures", stem, camera, still)
        videos: defaultdict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
        for key in self.sequences():
            videos[key.subject, key.action, key.subaction][key.camera] = self.video_frames(key)
        for subject, action, subaction in videos:
            actors = (actor_at(subject, action, subaction, number) for number in range(self.frames))
            points = joints_of(actors, lambda skeleton: skeleton.h36m_32)
            name = raw_human36m.file_prefix(subject, action, subaction)
            home = folder / subject / "MyPoseFeatures"
            raw_human36m.write_poses(home / "D3_Positions" / f"{name}.cdf", points * 1000)
        raw_human36m.write_metadata(folder / "metadata.xml", videos, self.scale)


# S1's Photo is the release's TakingPhoto, and S7's images are 1000x1002 before all cameras.
DEMO: Final = Plan(extra=(("S1", "Photo", 1, "54138969"), ("S7", "Directions", 1, "55011271")))


def actor_at(subject: str, action: str, subaction: int, number: int) -> Actor:
    """The person at frame `number` of a recording; the same for all cameras."""
    return act(subject, action, number / RATE, 0.37 * (subaction - 1))


def _write_poses(poses: Path, name: str, camera: Camera, actors: Sequence[Actor]) -> None:
    """Write pose files of one camera."""
    points = camera.world_to_camera(joints_of(actors, lambda skeleton: skeleton.h36m_32))
    raw_human36m.write_poses(poses / "D2_Positions" / f"{name}.cdf", camera.project(points))
    raw_human36m.write_poses(poses / "D3_Positions_mono" / f"{name}.cdf", points * 1000)
