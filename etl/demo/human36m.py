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
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final
from xml.etree import ElementTree  # writes only; reading goes through defusedxml

import cdflib.cdfwrite
import numpy as np
from numpy.typing import NDArray

from etl.demo import miniature
from etl.demo.cameras import looking, posed, scaled
from etl.demo.miniature import act, joints_of
from etl.demo.motions import MOTIONS
from etl.demo.raw_media import write_video
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

Floats = NDArray[np.floating[Any]]

SUBJECTS: Final = tuple(f"S{i}" for i in range(1, 12))
CAMERAS: Final = ("54138969", "55011271", "58860488", "60457274")
# Canonical names, as the release's `actionnames`; number 1 is the range of motion.
ACTIONS: Final = (
    "Miscellaneous", "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases",
    "Sitting", "SittingDown", "Smoking", "TakingPhoto", "Waiting", "Walking", "WalkingDog", "WalkingTogether",
)  # fmt: skip
_PREFIXES: Final = {
    "Miscellaneous": "_ALL", "TakingPhoto": "Photo", "WalkingDog": "WalkDog", "WalkingTogether": "WalkTogether",
}  # fmt: skip
# (action number, subaction): subjects whose file isn't named "<prefix> 1" or "<prefix>".
_IRREGULAR: Final[dict[tuple[int, int], dict[str, str]]] = {
    (1, 1): {"S2": "_ALL 2", "S10": "_ALL 2"},
    (1, 2): {"S2": "_ALL 1", "S10": "_ALL 1"},
    (2, 2): {"S5": "Directions 2"},
    (3, 1): {"S5": "Discussion 2"},
    (3, 2): {"S5": "Discussion 3", "S9": "Discussion 2", "S10": "Discussion 2", "S11": "Discussion 2"},
    (4, 1): {"S1": "Eating 2"},
    (4, 2): {"S2": "Eating 2", "S3": "Eating 2", "S6": "Eating 2"},
    (5, 1): {"S11": "Greeting 2"},
    (5, 2): {"S5": "Greeting 2"},
    (6, 1): {"S7": "Phoning 2", "S11": "Phoning 3"},
    (6, 2): {"S11": "Phoning 2"},
    (7, 1): {"S6": "Posing 2"},
    (7, 2): {"S3": "Posing 2"},
    (9, 2): {"S1": "Sitting 2", "S6": "Sitting 2"},
    (10, 1): {"S1": "SittingDown 2", "S2": "SittingDown 2"}
    | dict.fromkeys(("S5", "S7", "S8", "S9", "S10", "S11"), "SittingDown"),
    (10, 2): {"S2": "SittingDown 3", "S4": "SittingDown 2"}
    | dict.fromkeys(("S5", "S7", "S8", "S9", "S10", "S11"), "SittingDown 1"),
    (11, 1): {"S10": "Smoking 2", "S11": "Smoking 2"},
    (12, 1): {"S1": "TakingPhoto 1", "S5": "Photo", "S6": "Photo", "S7": "Photo"},
    (12, 2): {"S1": "TakingPhoto", "S5": "Photo 2", "S6": "Photo 1", "S7": "Photo 1"},
    (13, 1): {"S6": "Waiting 3"},
    (13, 2): {"S5": "Waiting 2", "S7": "Waiting 2"},
    (14, 2): {"S3": "Walking 2", "S7": "Walking 2"},
    (15, 1): {"S1": "WalkingDog 1"},
    (15, 2): {"S1": "WalkingDog"},
    (16, 1): {"S4": "WalkTogether 2"},
    (16, 2): {"S4": "WalkTogether 3", "S8": "WalkTogether 2"},
}
# fx fy cx cy k1 k2 k3 p1 p2 of each camera, shared by all subjects.
_INTRINSICS: Final = {
    "54138969": (1145.0494, 1143.7811, 512.5415, 515.4515, -0.207099, 0.247775, -0.003075, -0.001424, -0.000976),
    "55011271": (1149.6757, 1147.5916, 508.8486, 508.0649, -0.194214, 0.240409, 0.006820, -0.002741, -0.001619),
    "58860488": (1149.1407, 1148.7990, 519.8158, 501.4027, -0.208338, 0.255488, -0.002460, -0.000760, 0.001484),
    "60457274": (1145.5113, 1144.7739, 514.9682, 501.8820, -0.198384, 0.218324, -0.008948, -0.001813, -0.000587),
}
# Where the miniature's cameras stand (metres) and how far they lean (rad).
_PLACES: Final = {
    "54138969": (1.90, 4.80, 1.56, 0.012),
    "55011271": (1.80, -4.90, 1.61, -0.008),
    "58860488": (-1.75, 5.00, 1.50, 0.005),
    "60457274": (-1.70, -4.50, 1.55, -0.015),
}
_ALL_TALL: Final = frozenset({"S4", "S7", "S10"})  # all four of their cameras give 1002 rows
_NAMES_32: Final = (
    "Hips", "RightUpLeg", "RightLeg", "RightFoot", "RightToeBase", "Site", "LeftUpLeg", "LeftLeg", "LeftFoot",
    "LeftToeBase", "Site", "Spine", "Spine1", "Neck", "Head", "Site", "LeftShoulder", "LeftArm", "LeftForeArm",
    "LeftHand", "LeftHandThumb", "Site", "L_Wrist_End", "Site", "RightShoulder", "RightArm", "RightForeArm",
    "RightHand", "RightHandThumb", "Site", "R_Wrist_End", "Site",
)  # fmt: skip
_PARENTS_32: Final = (
    0, 1, 2, 3, 4, 5, 1, 7, 8, 9, 10, 1, 12, 13, 14, 15, 13, 17, 18, 19, 20, 21, 20, 23, 13, 25, 26, 27, 28, 29, 28, 31,
)  # fmt: skip
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
        "subjects": SUBJECTS, "actions": tuple(MOTIONS), "cameras": CAMERAS,
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
        return self.frames + (first and key.camera in CAMERAS[1:3])

    def record(self, folder: Path, key: SequenceKey) -> None:
        """Write one video with its poses and its truth."""
        camera = camera_of(key.subject, key.camera, self.scale)
        name = f"{file_prefix(key.subject, key.action, key.subaction)}.{key.camera}"
        scene = Scene(camera)
        filmed = self.video_frames(key)
        actors = [actor_at(key.subject, key.action, key.subaction, n) for n in range(max(filmed, self.frames))]
        moments = ((scene, (actor,)) for actor in actors[:filmed])
        images = film(folder, f"{key.subject}/{name}", key, moments)
        write_video(folder / key.subject / "Videos" / f"{name}.mp4", images, RATE)
        _write_camera_poses(folder / key.subject / "MyPoseFeatures", name, camera, actors[: self.frames])

    def finish(self, folder: Path) -> None:
        """Write the world's poses, those of the range of motion, and metadata.xml."""
        for subject, name in itertools.product(self.subjects, self.cameras):
            camera = camera_of(subject, name, self.scale)
            stem = f"{file_prefix(subject, 'Miscellaneous', 1)}.{name}"
            still = [actor_at(subject, self.actions[0], 1, 0)] * self.frames
            _write_camera_poses(folder / subject / "MyPoseFeatures", stem, camera, still)
        videos: defaultdict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
        for key in self.sequences():
            videos[key.subject, key.action, key.subaction][key.camera] = self.video_frames(key)
        for subject, action, subaction in videos:
            actors = (actor_at(subject, action, subaction, number) for number in range(self.frames))
            points = joints_of(actors, lambda skeleton: skeleton.h36m_32)
            name = file_prefix(subject, action, subaction)
            home = folder / subject / "MyPoseFeatures"
            write_poses(home / "D3_Positions" / f"{name}.cdf", points * 1000)
        write_metadata(folder / "metadata.xml", videos, self.scale)


# S1's Photo is the release's TakingPhoto, and S7's images are 1000x1002 before all cameras.
DEMO: Final = Plan(extra=(("S1", "Photo", 1, "54138969"), ("S7", "Directions", 1, "55011271")))


def actor_at(subject: str, action: str, subaction: int, number: int) -> Actor:
    """The person at frame `number` of a recording; the same for all cameras."""
    return act(subject, action, number / RATE, 0.37 * (subaction - 1))


def _write_camera_poses(poses: Path, name: str, camera: Camera, actors: Sequence[Actor]) -> None:
    """Write pose files of one camera."""
    points = camera.world_to_camera(joints_of(actors, lambda skeleton: skeleton.h36m_32))
    write_poses(poses / "D2_Positions" / f"{name}.cdf", camera.project(points))
    write_poses(poses / "D3_Positions_mono" / f"{name}.cdf", points * 1000)


def file_prefix(subject: str, action: str, subaction: int) -> str:
    """The release's file name, without camera: ``TakingPhoto 1`` for ("S1", "TakingPhoto", 1)."""
    number = number_of(action)
    irregular = _IRREGULAR.get((number, subaction), {})
    name = _PREFIXES.get(ACTIONS[number - 1], ACTIONS[number - 1])
    return irregular.get(subject, f"{name} 1" if subaction == 1 else name)


def number_of(action: str) -> int:
    """Number of an action, from 1, by its name in ACTIONS or by that of most files: TakingPhoto or Photo."""
    names = ACTIONS if action in ACTIONS else tuple(_PREFIXES.get(name, name) for name in ACTIONS)
    return names.index(action) + 1


def lens_of(subject: str, name: str, scale: float = 1.0) -> Camera:
    """A camera without its pose, for images scaled about the outer corner of the first pixel."""
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = _INTRINSICS[name]
    rows = 1002 if subject in _ALL_TALL or name in ("54138969", "60457274") else 1000
    return scaled(Camera(name, 1000, rows, (fx, fy), (cx, cy), "h36m", (k1, k2, k3), (p1, p2)), scale)


def extrinsics(subject: str, camera: str) -> Floats:
    """The six values rx ry rz (rad) tx ty tz (mm) of a camera that looks at the middle of the room.

    As in the release, a camera's place differs by centimetres between subjects.
    """
    x, y, z, lean = _PLACES[camera]
    n = SUBJECTS.index(subject) + 3 * CAMERAS.index(camera)
    origin = np.array([x, y, z]) + 0.06 * np.array([math.sin(n), math.cos(2 * n), 0.5 * math.sin(3 * n)])
    r = looking(origin, (0.0, 0.0, 0.90), lean)
    angles = [-math.atan2(r[1, 2], r[2, 2]), math.asin(r[0, 2]), -math.atan2(r[0, 1], r[0, 0])]
    return np.round(np.array([*angles, *(origin * 1000)]), 9)


def camera_of(subject: str, name: str, scale: float = 1.0) -> Camera:
    """The camera as metadata.xml describes it: X_c = R (X_w - T), with R = Rx(-rx) Ry(ry) Rz(-rz) in its own signs."""
    rx, ry, rz, *place = extrinsics(subject, name).tolist()
    cx, sx, cy, sy, cz, sz = (f(angle) for angle in (-rx, ry, -rz) for f in (math.cos, math.sin))
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    rotation = about_x @ about_y @ about_z
    return posed(lens_of(subject, name, scale), rotation, -rotation @ np.array(place) / 1000)


def write_metadata(path: Path, frames: Mapping[tuple[str, str, int], Mapping[str, int]], scale: float = 1.0) -> None:
    """Write metadata.xml: frames of each video by (subject, action, subaction) and camera; there are 0 of others."""
    root = ElementTree.Element("a")
    recordings = [(action, subaction) for action in range(1, 17) for subaction in (1, 2)]
    mapping = ElementTree.SubElement(root, "mapping")
    _add(mapping, "tr", td=["Action", "subaction", *SUBJECTS])
    for number, subaction in recordings:
        names = [file_prefix(subject, ACTIONS[number - 1], subaction) for subject in SUBJECTS]
        _add(mapping, "tr", td=[number, subaction, *names])
    _add(mapping, "tr", td=["Action", "subaction", *(f"figure {subject}" for subject in SUBJECTS)])
    lenses = [[lens_of(subject, name, scale) for name in CAMERAS] for subject in SUBJECTS]
    sizes = [";".join(f"{lens.height} {lens.width}" for lens in row) for row in lenses]
    _add(mapping, "tr", td=["", "", *(f"[{text}]" for text in sizes)])
    known = {(subject, number_of(action), subaction): each for (subject, action, subaction), each in frames.items()}
    counts = ElementTree.SubElement(root, "frames")
    for subject in SUBJECTS:
        videos = [known.get((subject, *recording), {}) for recording in recordings]
        rows = [[found.get(camera, 0) for camera in CAMERAS] for found in videos]
        _add(counts, "tr", td=["", *(_matlab([*row, sum(row)]) for row in rows)])
    skeleton = _add(root, "skel_pos", type=["bvh"])
    tree = ElementTree.SubElement(skeleton, "tree")
    for i, (name, above) in enumerate(zip(_NAMES_32, _PARENTS_32, strict=True)):
        below = [j + 1 for j, parent in enumerate(_PARENTS_32) if parent == i + 1]
        children = _matlab(below) if len(below) > 1 else "".join(map(str, below))
        places = _matlab([3 * i + 1, 3 * i + 2, 3 * i + 3])
        _add(tree, "item", name=[name], id=[i], parent=[above], posInd=[places], children=[children])
    w0 = [value for name in CAMERAS for subject in SUBJECTS for value in extrinsics(subject, name).tolist()]
    for lens in lenses[0]:
        w0 += [*lens.focal, *lens.center, *lens.radial, *lens.tangential]
    _add(root, "w0").text = _matlab(w0)
    _add(ElementTree.SubElement(root, "dbcameras"), "index2id", item=CAMERAS)
    _add(root, "actionnames", item=ACTIONS)
    ElementTree.indent(root, "   ")
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def write_poses(path: Path, values: Floats) -> None:
    """Write a pose file: one variable ``Pose`` (1, F, 32 * axes) float32 of joints (F, 32, axes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    flat = values.reshape(1, len(values), -1).astype(np.float32)
    cdf = cdflib.cdfwrite.CDF(path, cdf_spec={"Majority": "row_major"})
    spec = {"Variable": "Pose", "Data_Type": cdf.CDF_FLOAT, "Num_Elements": 1, "Rec_Vary": True}
    spec["Dim_Sizes"] = list(flat.shape[1:])
    cdf.write_var(spec, var_data=flat)
    cdf.close()


def _add(parent: ElementTree.Element, tag: str, /, **children: Iterable[object]) -> ElementTree.Element:
    """Add an element with children of these tags and texts."""
    element = ElementTree.SubElement(parent, tag)
    for name, texts in children.items():
        for text in texts:
            ElementTree.SubElement(element, name).text = str(text)
    return element


def _matlab(values: Iterable[object]) -> str:
    return f"[{' '.join(map(repr, values))}]"
