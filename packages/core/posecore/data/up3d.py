"""UP-3D: SMPL bodies fitted to photographs of LSP, LSP-extended and MPII, the good ones chosen by people."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from posecore.body.skeletons import JOINTS_44, LSP_14
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops, box_of_keypoints
from posecore.data.person_rows import person_rows, same_joints
from posecore.data.picture_sizes import picture_sizes
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_pickle

SPLITS = ("train", "val", "trainval", "test")
FOLDERS = ("up-3d", "UP-3D", "up3d")
HOW_TO_OBTAIN = (
    "UP-3D is free for non-commercial use: the zip of UP-3D from files.is.tuebingen.mpg.de/classner/up, unpacked so "
    "that the folder holds trainval.txt and 00000_image.png, 00000_body.pkl, 00000_joints.npy, ..."
)
_PICTURE = "_image.png"


class UP3D(PoseTable):
    """One person in a photograph, with keypoints and the SMPL body that was fitted to them.

    ============  ====================================================================================================
    content       photographs of LSP, LSP-extended and MPII (people alone in it) whose fits people found good
    joints        joints44, of which LSP names 14
    2D            annotations, pixels of the picture, with their confidence; taken as they are
    camera        the fit's: its focal length, principal point in the middle of the picture
    body          ``global_orient`` in camera axes (x right, y down, z forward; the camera's rotation ``rt`` times the
                  body's), ``body_pose`` and ``betas`` of the neutral SMPL: fits, not measured truth. Translations
                  (``trans`` and ``t``) are not read, as rows for training on photographs have none
    files         ``train.txt val.txt trainval.txt test.txt`` with lines ``/00000_image.png``; ``00000_image.png``;
                  ``00000_body.pkl`` {pose (72), betas (10), trans (3), rt (3), t (3), f}; ``00000_joints.npy`` (3, 14):
                  x, y, confidence
    licence       CC BY-NC 4.0, and the terms of the pictures' data sets
    to obtain     files.is.tuebingen.mpg.de/classner/up
    ============  ====================================================================================================

    Rows run over the list's lines and have the keys of `posecore.data.person_rows.person_rows`; ``clip`` is the
    picture's name. The person's box is the square around the seen keypoints, 1.2 times their longer side. GraphCMR
    takes 1.2 times the rendered silhouette instead, which is somewhat larger.

    Args:
        root: folder with the files, or the one that holds it as ``up-3d``.
        split: "train", "val", both as "trainval", or "test".
        stride: takes every ``stride``-th person.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures but for their sizes.
        crop_margin: side of ``image`` by that of the box; augmentation turns and shifts the box within it.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is out of range or a file is broken.

    References:
        Lassner et al., Unite the People: Closing the Loop Between 3D and 2D Human Representations, CVPR 2017.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("split", [split], SPLITS)
        check_stride(stride)
        path = find_path(Path(root), FOLDERS, f"{split}.txt", HOW_TO_OBTAIN)
        folder = path.parent
        clip = _names(path)[::stride]
        pictures = tuple(find_path(folder, (), name, HOW_TO_OBTAIN) for name in clip)
        size = picture_sizes(pictures)
        joints = np.stack([_joints(_beside(picture, "_joints.npy")) for picture in pictures])
        bodies = [_body(_beside(picture, "_body.pkl")) for picture in pictures]
        pose, betas, focal = (np.stack(column) for column in zip(*bodies, strict=True))
        points, known = same_joints(joints[..., :2], joints[..., 2] > 0, LSP_14)
        confidence, _ = same_joints(joints[..., 2:], joints[..., 2] > 0, LSP_14)
        center, side = box_of_keypoints(torch.from_numpy(points), torch.from_numpy(known.astype(float)))
        samples = person_rows(
            clip,
            np.column_stack((center, side)),
            size,
            K=_intrinsics(focal, size),
            joints_2d_px=points,
            confidence=confidence[..., 0],
            pose=torch.from_numpy(pose),
            betas=betas,
        )
        box = samples["box"]
        images = None if crops is None else PersonCrops(pictures, box[:, :2], box[:, 2], crops, crop_margin)
        super().__init__(JOINTS_44, samples, images)


def _names(path: Path) -> list[str]:
    names = [line.strip().lstrip("/") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path}: lists no picture, expected lines such as /00000{_PICTURE}")
    if wrong := [name for name in names if not name.endswith(_PICTURE)]:
        raise ValueError(f"{path}: lists {wrong[0]!r}, expected lines such as /00000{_PICTURE}")
    return names


def _beside(picture: Path, ending: str) -> Path:
    return find_path(picture.parent, (), picture.name.removesuffix(_PICTURE) + ending, HOW_TO_OBTAIN)


def _joints(path: Path) -> Float[np.ndarray, "14 3"]:
    """x, y (pixels) and confidence of LSP's joints."""
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: is no whole .npy array: {error}") from error
    joints = check_shape("joints", values, (3, LSP_14.num_joints), path).T
    seen = joints[joints[:, 2] > 0, :2]
    if len(seen) < 2 or not np.ptp(seen, axis=0).max() > 0:
        raise ValueError(f"{path}: has no two seen joints at different places, so no box goes around them")
    return joints


def _body(path: Path) -> tuple[Float[np.ndarray, "24 3 3"], Float[np.ndarray, " 10"], Float[np.ndarray, ""]]:
    """Rotations with the root in camera axes, shape, and focal length in pixels."""
    content = load_pickle(path)
    shapes: dict[str, tuple[int, ...]] = {"pose": (72,), "rt": (3,), "betas": (10,), "f": ()}
    pose, rt, betas, focal = (check_shape(key, get_key(content, key, path), of, path) for key, of in shapes.items())
    if not focal > 0:
        raise ValueError(f"{path}: f is {focal:g}, expected a focal length above 0 px")
    rotmat = axis_angle_to_rotmat(torch.from_numpy(pose).reshape(24, 3)).numpy()
    rotmat[0] = axis_angle_to_rotmat(torch.from_numpy(rt)).numpy() @ rotmat[0]
    return rotmat, betas, focal


def _intrinsics(focal: Float[np.ndarray, " rows"], size: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 3 3"]:
    K = np.tile(np.eye(3), (len(focal), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = size / 2
    return K
