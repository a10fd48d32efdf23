"""The page ``people.html`` of a `predict`: bodies or skeletons that turn and play in a browser."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.export.files import OutputFolder
from posecore.export.html import write_html
from posecore.export.html_scene import Scene, SceneBodies, SceneCamera, ScenePerson, SceneSkeletons
from posecore.export.predictions import PosePredictions
from posecore.export.smpl_predictions import SMPLPredictions
from posecore.training.body_files import Track, motion_of

PAGE = "people.html"

_PICTURES_PER_SECOND = 1.0  # photographs are shown one after the other


def write_bodies_page(
    folder: OutputFolder,
    model: BodyModel,
    made: SMPLPredictions,
    tracks: Sequence[Track],
    title: str,
    photo: np.ndarray | None,
) -> str:
    """Every person's body, with the hypotheses where there are several.

    Args:
        folder: Where to.
        model: The body.
        made: Its parameters.
        tracks: Who is in which rows.
        title: The headline.
        photo: The picture, where there is one only.

    Returns:
        The file's name.
    """
    times = _times(made)
    people: list[ScenePerson] = []
    for track in tracks:
        count = 0 if made.hypotheses_body_pose is None else made.hypotheses_body_pose.shape[1]
        numbers: list[int | None] = [*range(count)] if count else [None]
        motions = [
            replace(motion_of(model, made, track, number, _PICTURES_PER_SECOND), first_frame=times[track.rows[0]])
            for number in numbers
        ]
        chosen = None if made.best is None else made.best[list(track.rows)]
        people.append(SceneBodies(motions, chosen))
    write_html(folder.file(PAGE), _scene(made, people, title, photo, made.pick))
    return PAGE


def write_skeletons_page(
    folder: OutputFolder, made: PosePredictions, tracks: Sequence[Track], title: str, photo: np.ndarray | None
) -> str:
    """Every person's joints in all hypotheses; arguments as for :func:`write_bodies_page`."""
    times = _times(made)
    people: list[ScenePerson] = []
    for track in tracks:
        rows = list(track.rows)
        joints: Float[Tensor, "hypotheses frames joints 3"] = made.hypotheses[rows].transpose(0, 1)
        people.append(SceneSkeletons(track.person, joints, made.joint_set, made.best[rows], times[rows[0]]))
    write_html(folder.file(PAGE), _scene(made, people, title, photo, made.pick))
    return PAGE


def _times(made: SMPLPredictions | PosePredictions) -> list[int]:
    """Number of each row's frame on the page: that of the video, or that of the picture among the pictures."""
    if made.fps is not None:
        return list(made.frames)
    pictures = list(zip(made.image_names, made.frames, made.views, strict=True))
    number = {picture: k for k, picture in enumerate(dict.fromkeys(pictures))}
    return [number[picture] for picture in pictures]


def _scene(
    made: SMPLPredictions | PosePredictions,
    people: Sequence[ScenePerson],
    title: str,
    photo: np.ndarray | None,
    pick: str,
) -> Scene:
    sizes = made.image_size
    camera = None
    # One camera for all: its view is offered.
    if sizes is not None and len(made.K.unique(dim=0)) == len(sizes.unique(dim=0)) == 1:
        width, height = sizes[0].round().int().tolist()
        camera = SceneCamera(made.K[0].detach().cpu().to(torch.float64), (width, height), photo)
    return Scene(
        title=title,
        method=made.method,
        people=people,
        fps=made.fps or _PICTURES_PER_SECOND,
        camera=camera,
        camera_statement=made.camera_statement,
        camera_assumed=made.camera_assumed,
        pick=pick,
    )
