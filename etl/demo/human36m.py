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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from etl.demo import release
from etl.demo.miniature import act, film, joints_of, truth_path
from etl.demo.motions import MOTIONS
from etl.demo.raw_media import write_video
from etl.demo.scene import Actor, Picture, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

RATE: Final = 50
CUT: Final = 2  # frames by which videos of `Plan.extra` are shorter than their poses


@dataclass(frozen=True)
class Plan:
    """Plan of the rendered dataset.

    Parameters
    ----------
    subjects, actions, cameras : tuple of str
        Canonical names; actions are among etl.demo.motions.MOTIONS.
    subactions : tuple of int
        1, 2 or both.
    frames : int
        Of the poses of each sequence.
    scale : float
        Of the images: 1 gives the release's sizes.
    extra : tuple of (subject, action, subaction, camera)
        Single sequences beside all these, whose videos end before their poses.
    """

    dataset: ClassVar[str] = "h36m"

    subjects: tuple[str, ...] = ("S1", "S5", "S9")
    actions: tuple[str, ...] = ("Directions", "Walking")
    cameras: tuple[str, ...] = ("54138969", "55011271")
    subactions: tuple[int, ...] = (1,)
    frames: int = 50
    scale: float = 1.0
    extra: tuple[tuple[str, str, int, str], ...] = ()

    def recordings(self) -> list[tuple[str, str, int]]:
        """(subject, action, subaction) of everything that is recorded by all cameras."""
        return list(itertools.product(self.subjects, self.actions, self.subactions))

    def sequences(self) -> list[SequenceKey]:
        """Every recording before every camera; a camera's are neighbours, so that its rays are used again."""
        keys = [SequenceKey("h36m", *recording, camera) for camera in self.cameras for recording in self.recordings()]
        return keys + self._extra()

    def _extra(self) -> list[SequenceKey]:
        return [SequenceKey("h36m", *names) for names in self.extra]

    def video_frames(self, key: SequenceKey) -> int:
        """Frames of a video, which in the release may be more or fewer than the poses.

        Here it is one more for the first recording before the second and third camera, and CUT fewer for `extra`.
        """
        if key in self._extra():
            return max(self.frames - CUT, 1)
        first = (key.subject, key.action, key.subaction) == self.recordings()[0]
        return self.frames + (first and key.camera in release.CAMERAS[1:3])

    def choices(self) -> dict[str, Sequence[Any]]:
        """See `miniature.Plan`."""
        return {
            "subjects": release.SUBJECTS, "actions": tuple(MOTIONS), "cameras": release.CAMERAS, "subactions": (1, 2),
        }  # fmt: skip

    def record(self, folder: Path, key: SequenceKey) -> None:
        """See `miniature.Plan`: render one video, and write it with its poses and its truth."""
        camera = release.camera_of(key.subject, key.camera, self.scale)
        subject, name = release_path(key).parts
        scene = Scene(camera)
        filmed = self.video_frames(key)
        actors = [actor_at(key.subject, key.action, key.subaction, n) for n in range(max(filmed, self.frames))]
        images = film(key, ((scene, (actor,)) for actor in actors[:filmed]), truth_path(folder, f"{subject}/{name}"))
        write_video(folder / subject / "Videos" / f"{name}.mp4", images, RATE)
        _write_poses(folder, subject, name, camera, actors[: self.frames])

    def finish(self, folder: Path) -> None:
        """See `miniature.Plan`: write the world's poses, those of the range of motion, and metadata.xml."""
        for subject, camera in itertools.product(self.subjects, self.cameras):
            name = f"{release.file_prefix(subject, 'Miscellaneous', 1)}.{camera}"
            still = [actor_at(subject, self.actions[0], 1, 0)] * self.frames
            _write_poses(folder, subject, name, release.camera_of(subject, camera, self.scale), still)
        videos: dict[tuple[str, str, int], dict[str, int]] = {}
        for key in self.sequences():
            filmed = videos.setdefault((key.subject, key.action, key.subaction), {})
            filmed[key.camera] = self.video_frames(key)
        for subject, action, subaction in videos:
            actors = (actor_at(subject, action, subaction, number) for number in range(self.frames))
            points = joints_of(actors, lambda skeleton: skeleton.h36m_32)
            name = release.file_prefix(subject, action, subaction)
            release.write_poses(folder / subject / "MyPoseFeatures" / "D3_Positions" / f"{name}.cdf", points * 1000)
        release.write_metadata(folder / "metadata.xml", videos, self.scale)


# S1's Photo is the release's TakingPhoto, and S7's images are 1000x1002 before all cameras.
DEMO: Final = Plan(extra=(("S1", "Photo", 1, "54138969"), ("S7", "Directions", 1, "55011271")))


def frames_of(key: SequenceKey, camera: Camera, count: int) -> Iterator[tuple[Actor, Picture]]:
    """Actor and picture of each of the first `count` frames of a sequence."""
    scene = Scene(camera)
    for number in range(count):
        actor = actor_at(key.subject, key.action, key.subaction, number)
        yield actor, scene.render(actor)


def actor_at(subject: str, action: str, subaction: int, number: int) -> Actor:
    """The person at frame `number` of a recording; the same for all cameras."""
    return act(subject, action, number / RATE, 0.37 * (subaction - 1))


def release_path(key: SequenceKey) -> Path:
    """``S1/Directions 1.54138969``: the subject, and the release's name of the sequence."""
    return Path(key.subject, f"{release.file_prefix(key.subject, key.action, key.subaction)}.{key.camera}")


def _write_poses(folder: Path, subject: str, name: str, camera: Camera, actors: Sequence[Actor]) -> None:
    """Write pose files of one camera."""
    points = camera.world_to_camera(joints_of(actors, lambda skeleton: skeleton.h36m_32))
    poses = folder / subject / "MyPoseFeatures"
    release.write_poses(poses / "D2_Positions" / f"{name}.cdf", camera.project(points))
    release.write_poses(poses / "D3_Positions_mono" / f"{name}.cdf", points * 1000)
