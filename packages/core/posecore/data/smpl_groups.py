"""Videos and sets of views in the pickle layout of ScoreHMR's release."""

from pathlib import Path

import torch

from posecore.body.skeletons import JOINTS_44
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, find_path
from posecore.data.crops import with_boxes
from posecore.data.smpl_columns import read_groups
from posecore.data.smpl_npz import (
    HOW_TO_OBTAIN,
    TRUTHS,
    RowSource,
    cache_path,
    picture_crops,
    released_boxes,
    released_rows,
)

KINDS = ("video", "views")
_KEYS = (
    "imgname",
    "center",
    "scale",
    "body_pose",
    "has_body_pose",
    "betas",
    "has_betas",
    "body_keypoints_2d",
    "extra_keypoints_2d",
    "body_keypoints_3d",
    "extra_keypoints_3d",
    "gender",
    "image_size",
    "img_size",
)


class SMPLGroups(PoseTable):
    """Pictures that belong together: the frames of one person's video, or the views of one person at one instant.

    ============  ====================================================================================================
    content       whatever the file holds; the paper has 3DPW (video), Human3.6M and Mannequin Challenge (views)
    files         one pickle of a list of dicts, one for each group, with the keys of `SMPLNpz`
    ============  ====================================================================================================

    Joints, frame, 2D, camera, body, licence and where to get the files are those of `SMPLNpz`. Rows run over groups,
    then over the pictures of each. ``clip`` is the number of the group in the file ("0003"). In a video ``frame`` is
    the number of the picture in its group and ``view`` is 0; of views it is the other way round.

    Args:
        root: folder with the file.
        file: its name. It is read as plain data: nothing in it is run.
        kind: "video" or "views".
        features: cache of image features of all rows in order (`SMPLNpz`); also as a list of groups.
        start: cache of predictions of all rows in order (`read_start_estimates`).
        with_keypoints: whether rows have 2D keypoints and a camera, for which the pictures' sizes must be known.
        image_root: folder of the pictures, for their sizes and crops.
        image_size: width and height of all pictures, pixels.
        use_hips: False sets the confidence of hips and pelvis to 0.
        truth: where ``joints_cam`` comes from: "keypoints" or "smpl".
        body_models: folder with SMPL's files for ``truth="smpl"``; None takes the open body.
        crops: side in pixels of crops, ``image`` of the rows (`SMPLNpz`).
        crop_margin: makes them raw crops of ``crop_margin`` times the boxes; rows then have ``box`` too.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is unknown or missing, there is no row, or a file is broken or unsafe.
    """

    def __init__(
        self,
        root: Path,
        file: str,
        kind: str = "video",
        features: str | None = None,
        start: str | None = None,
        with_keypoints: bool = True,
        image_root: Path | None = None,
        image_size: tuple[int, int] | None = None,
        use_hips: bool = True,
        truth: str = "keypoints",
        body_models: Path | None = None,
        crops: int | None = None,
        crop_margin: float | None = None,
    ) -> None:
        check_choice("kind", [kind], KINDS)
        check_choice("truth", [truth], TRUTHS)
        path = find_path(Path(root), (), file, HOW_TO_OBTAIN)
        columns, counts = read_groups(path, _KEYS)
        if not sum(counts):
            raise ValueError(f"{path}: its {len(counts)} groups have no row")
        source = RowSource(with_keypoints, image_root, image_size, use_hips, truth, body_models)
        samples = released_rows(columns, path, source, cache_path(root, features), cache_path(root, start))
        images = picture_crops(samples, released_boxes(columns, path), image_root, crops, crop_margin)
        within = torch.cat([torch.arange(count) for count in counts])
        samples["clip"] = [f"{number:04d}" for number, count in enumerate(counts) for _ in range(count)]
        samples["frame"], samples["view"] = (
            (within, torch.zeros_like(within)) if kind == "video" else (torch.zeros_like(within), within)
        )
        super().__init__(JOINTS_44, with_boxes(samples, images), images)
