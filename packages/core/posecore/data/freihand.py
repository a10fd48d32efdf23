"""FreiHAND: photographs of right hands with their 21 joints and MANO's mesh."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from posecore.body.skeletons import FREIHAND_21
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import camera_rows, check_choice, check_shape, check_stride, find_path
from posecore.data.crops import PersonCrops

HOW_TO_OBTAIN = (
    "FreiHAND is free for research: FreiHAND_pub_v2.zip, and for the truth of the evaluation set "
    "FreiHAND_pub_v2_eval.zip, from https://lmb.informatik.uni-freiburg.de/projects/freihand/, unpacked into one folder"
)
IMAGE_SIDE = 224
_VERSIONS = {"training": (0, 1, 2, 3), "evaluation": (0,)}
_COLUMNS = {"K": (3, 3), "xyz": (FREIHAND_21.num_joints, 3), "verts": (778, 3)}
_BETWEEN_ROWS = re.compile(r"[\s,]*")


class FreiHAND(PoseTable):
    """Right hands, some holding an object, each in the middle of a picture of 224 x 224 pixels.

    ============  ====================================================================================================
    content       32 people; training: 32,560 hands in four versions each (green screen, and three ways to fill in
                  another background), 130,240 pictures; evaluation: 3,960 hands, half of them outdoors
    joints        freihand21: wrist, then thumb to little finger, each from the palm to the tip
    frame         camera axes (x right, y down, z forward), metres
    2D            exact projections, pixels
    mesh          ``vertices_cam``, MANO's 778 vertices of a right hand
    files         ``<split>/rgb/%08d.jpg`` (hand i in version v has the number i + v * hands), ``<split>_K.json``,
                  ``<split>_xyz.json``, ``<split>_verts.json``
    licence       research only, no commercial use
    to obtain     https://lmb.informatik.uni-freiburg.de/projects/freihand/, version 2 and its evaluation annotations
    protocol      ``hmdiff_freihand``: the evaluation set
    ============  ====================================================================================================

    Rows run over versions, then over hands; they have ``joints_cam joints_known joints_rel joints_2d_px
    joints_2d_true_px confidence K image_size box vertices_cam``. The person's box is the whole picture, as METRO takes
    it. In memory a row has 10 kB, the training set with all versions 1.3 GB; reading its files takes some minutes.

    Args:
        root: folder with the files.
        split: "training" or "evaluation".
        versions: which pictures of each training hand, of 0 to 3; None takes all. The evaluation set has 0 alone.
        stride: takes every ``stride``-th hand.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures. Mirroring would make left hands: augment with
            ``flip_prob`` 0.
        crop_margin: side of ``image`` by that of the box; there is nothing outside the box to be seen.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is out of range, a file is broken, or files differ in their number of hands.

    References:
        Zimmermann et al., FreiHAND: A Dataset for Markerless Capture of Hand Pose and Shape from Single RGB Images,
        ICCV 2019.
    """

    def __init__(
        self,
        root: Path,
        split: str = "training",
        versions: Sequence[int] | None = None,
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.0,
    ) -> None:
        check_choice("split", [split], _VERSIONS)
        versions = _VERSIONS[split] if versions is None else versions
        check_choice(f"versions of the {split} set", versions, _VERSIONS[split])
        if not versions:
            raise ValueError("versions: expected at least one")
        check_stride(stride)
        columns = {
            name: _read_rows(find_path(Path(root), (), f"{split}_{name}.json", HOW_TO_OBTAIN), shape)
            for name, shape in _COLUMNS.items()
        }
        counts = {f"{split}_{name}.json": len(rows) for name, rows in columns.items()}
        if len(set(counts.values())) != 1 or not all(counts.values()):
            found = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"{root}: every file needs the same number of hands, at least one, but {found}")
        hands = len(columns["K"])
        K, joints, vertices = (np.tile(rows[::stride], (len(versions), 1, 1)) for rows in columns.values())
        samples = camera_rows(FREIHAND_21, joints, K, (IMAGE_SIDE, IMAGE_SIDE))
        samples["joints_known"] = torch.ones(joints.shape[:2], dtype=torch.bool)
        samples["vertices_cam"] = torch.from_numpy(vertices)
        samples["box"] = torch.tensor([IMAGE_SIDE / 2, IMAGE_SIDE / 2, float(IMAGE_SIDE)]).repeat(len(joints), 1)
        images = None
        if crops is not None:
            numbers = [hand + hands * version for version in versions for hand in range(0, hands, stride)]
            find_path(Path(root), (), _picture(split, max(numbers)), HOW_TO_OBTAIN)
            pictures = tuple(Path(root) / _picture(split, number) for number in numbers)
            images = PersonCrops(pictures, samples["box"][:, :2], samples["box"][:, 2], crops, crop_margin)
        super().__init__(FREIHAND_21, samples, images)


def _picture(split: str, number: int) -> str:
    return f"{split}/rgb/{number:08d}.jpg"


def _read_rows(path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "hands _ _"]:
    """The arrays of a JSON list, one after the other: the list of all meshes would take 15 times their memory."""
    text = path.read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    rows: list[np.ndarray] = []
    try:
        if text.lstrip()[0] != "[":
            raise IndexError("no list")
        end = text.index("[") + 1
        while text[end := _end_of_gap(text, end)] != "]":
            row, end = decoder.raw_decode(text, end)
            rows.append(check_shape(f"hand {len(rows)}", row, shape, path).astype(np.float32))
    except (json.JSONDecodeError, IndexError) as error:
        raise ValueError(f"{path}: is no list of arrays, or cut off after {len(rows)} hands") from error
    return np.stack(rows) if rows else np.zeros((0, *shape), dtype=np.float32)


def _end_of_gap(text: str, start: int) -> int:
    gap = _BETWEEN_ROWS.match(text, start)
    return start if gap is None else gap.end()
