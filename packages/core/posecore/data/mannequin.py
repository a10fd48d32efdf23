"""Mannequin Challenge as ScoreHMR evaluates it: frames of a frozen person as views."""

from pathlib import Path

from posecore.data.smpl_groups import SMPLGroups


class MannequinChallenge(SMPLGroups):
    """People who hold still while a camera moves around them: several views of one body at one instant.

    ============  ====================================================================================================
    content       Leroy et al. fitted SMPL to 24,428 frames of 567 scenes; ScoreHMR tests on some 20,000, because
                  videos have gone since
    joints        joints44
    frame         camera axes (x right, y down, z forward), metres
    2D            none is used: the views are compared with one another
    camera        assumed: focal length 5000 px, principal point in the middle of the picture
    body          SMPL fits, which are the truth
    files         one pickle of a list of dicts, one for each person, with the keys of `SMPLNpz`; caches of HMR 2.0b's
                  predictions and PARE's features in the same order; frames of the videos below ``image_root``
    licence       Mannequin Challenge's list of videos: CC BY 4.0; the videos belong to their makers
    to obtain     https://google.github.io/mannequinchallenge for the videos, the README of ScoreHMR's release for the
                  annotations and caches
    protocol      ``scorehmr_multiview``: MPJPE and PA-MPJPE. The paper says 17 joints, its release scores 14
    ============  ====================================================================================================

    Rows are those of `SMPLGroups` with ``kind="views"``: ``clip`` is the number of the person, ``view`` that of the
    picture.

    Args:
        root: folder with the files.
        file: name of the pickle. It is read as plain data: nothing in it is run.
        features: cache of PARE's features of all rows in order.
        start: cache of predictions of all rows in order.
        image_root: folder of the pictures, for their sizes and crops.
        image_size: width and height of all pictures, pixels, where the file has none; spares reading the pictures'.
        truth: where ``joints_cam`` comes from: "smpl", the fitted body, or "keypoints", the file's 3D joints.
        body_models: folder with SMPL's files for ``truth="smpl"``; None takes the open body.
        crops: side in pixels of crops, ``image`` of the rows (`SMPLNpz`).
        crop_margin: makes them raw crops of ``crop_margin`` times the boxes; rows then have ``box`` too.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is unknown or missing, there is no row, or a file is broken or unsafe.

    References:
        Li et al., Learning the Depths of Moving People by Watching Frozen People, CVPR 2019.
        Leroy et al., SMPLy Benchmarking 3D Human Pose Estimation in the Wild, 3DV 2020.
    """

    def __init__(
        self,
        root: Path,
        file: str = "mannequin.pkl",
        features: str | None = None,
        start: str | None = None,
        image_root: Path | None = None,
        image_size: tuple[int, int] | None = None,
        truth: str = "smpl",
        body_models: Path | None = None,
        crops: int | None = None,
        crop_margin: float | None = None,
    ) -> None:
        super().__init__(
            root,
            file,
            kind="views",
            features=features,
            start=start,
            image_root=image_root,
            image_size=image_size,
            truth=truth,
            body_models=body_models,
            crops=crops,
            crop_margin=crop_margin,
        )
