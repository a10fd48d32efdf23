"""The one list of batch keys, and the operations every dataset needs on them: pick rows, join tables, name groups."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import torch
from jaxtyping import Int
from torch import Tensor


class PoseSample(TypedDict, total=False):
    """One person in one picture, or a batch of them (every entry then has a leading batch dimension).

    A dataset gives the keys it knows; a missing key means that the dataset has no such annotation. J is the number of
    joints of the dataset's ``joint_set``. Camera frame: x right, y down, z forward, metres. World frame: y up, metres.

    =====================  ============  ==================================================================
    key                    shape         meaning
    =====================  ============  ==================================================================
    ``joints_cam``         (J, 3)        joints in the camera frame, metres
    ``joints_known``       (J,)          where ``joints_cam`` holds something (bool); without this key, everywhere
    ``joints_rel``         (J, 3)        ``joints_cam`` minus its root (mean of ``joint_set.root``), metres
    ``joints_2d_px``       (J, 2)        what a detector says, pixels; (0, 0) where ``confidence`` is 0
    ``confidence``         (J,)          of ``joints_2d_px``, in [0, 1]; 0 = not seen
    ``joints_2d_true_px``  (J, 2)        exact projection of ``joints_cam`` by ``K``, pixels
    ``K``                  (3, 3)        pinhole intrinsics, pixels
    ``image_size``         (2,)          width, height in pixels
    ``R_world_to_cam``     (3, 3)        x_cam = R x_world + t
    ``t_world_to_cam``     (3,)          metres
    ``global_orient``      (3, 3)        SMPL root rotation in the camera frame
    ``body_pose``          (23, 3, 3)    SMPL local rotations
    ``betas``              (10,)         SMPL shape, unit: standard deviations
    ``transl``             (3,)          SMPL translation in the camera frame, metres
    ``joints_smpl24_cam``  (24, 3)       the person's own kinematic SMPL joints in the camera frame, metres
    ``vertices_cam``       (V, 3)        the true full mesh in the camera frame, metres, of data sets that know the mesh
                                         but no parameters (FreiHAND's hands)
    ``has_pose``           ()            whether ``global_orient`` and ``body_pose`` are known (bool); without this key,
                                         all are
    ``has_betas``          ()            whether ``betas`` are known (bool), likewise
    ``start_global_orient``  (3, 3)      another program's estimate of the SMPL parameters, camera frame: where a fit
    ``start_body_pose``    (23, 3, 3)    starts
    ``start_betas``        (10,)
    ``start_transl``       (3,)
    ``features``           (F,)          image features that a network computed earlier
    ``image``              (3, H, W)     crop around the person, normalised as the backbone wants it; uint8: a raw crop
                                         with a margin, which `posecore.data.augment` turns into one
    ``box``                (3,)          middle (x, y) and side of the person's square box, pixels of the picture that
                                         ``K`` sees
    ``smpl24_visible``     (24,)         which of ``joints_smpl24_cam`` the picture shows (bool): not cut off, not
                                         hidden by an occluder or by the body itself
    ``gender``             str           of the true body: "male", "female" or "neutral"; list of str when batched
    ``subject``            str           list of str when batched
    ``clip``               str           list of str when batched
    ``action``             str           list of str when batched
    ``frame``              ()            index in the clip, at ``fps``
    ``view``               ()            number of the camera that sees this frame
    ``fps``                ()            frames per second of the (resampled) clip
    ``row``                ()            number of the row in its data set, in evaluation and prediction
    =====================  ============  ==================================================================
    """

    joints_cam: Tensor
    joints_known: Tensor
    joints_rel: Tensor
    joints_2d_px: Tensor
    confidence: Tensor
    joints_2d_true_px: Tensor
    K: Tensor
    image_size: Tensor
    R_world_to_cam: Tensor
    t_world_to_cam: Tensor
    global_orient: Tensor
    body_pose: Tensor
    betas: Tensor
    transl: Tensor
    joints_smpl24_cam: Tensor
    vertices_cam: Tensor
    has_pose: Tensor
    has_betas: Tensor
    start_global_orient: Tensor
    start_body_pose: Tensor
    start_betas: Tensor
    start_transl: Tensor
    features: Tensor
    image: Tensor
    box: Tensor
    smpl24_visible: Tensor
    gender: str | list[str]
    subject: str | list[str]
    clip: str | list[str]
    action: str | list[str]
    frame: Tensor
    view: Tensor
    fps: Tensor
    row: Tensor


SAMPLE_KEYS: tuple[str, ...] = tuple(PoseSample.__annotations__)


def sample_length(samples: PoseSample) -> int:
    """Number of rows of a batched sample.

    Raises:
        ValueError: if the sample is empty, a key is not one of ``SAMPLE_KEYS`` or the rows differ in number.
    """
    lengths = {key: len(cast(Any, value)) for key, value in samples.items()}
    if not lengths:
        raise ValueError("samples: has no keys, expected at least one of " + ", ".join(SAMPLE_KEYS))
    if unknown := sorted(set(lengths) - set(SAMPLE_KEYS)):
        raise ValueError(f"samples: unknown keys {unknown}, valid are {', '.join(SAMPLE_KEYS)}")
    if len(set(lengths.values())) != 1:
        raise ValueError(f"samples: every key needs the same number of rows, got {lengths}")
    return next(iter(lengths.values()))


def row_numbers(samples: PoseSample) -> Int[Tensor, " rows"]:
    """Numbers of a batch's rows in their data set: ``row``, or their places in the batch where it is not there."""
    if "row" in samples:
        return samples["row"]
    first = next(value for value in samples.values() if isinstance(value, Tensor))
    return torch.arange(len(first), device=first.device)


def take(samples: PoseSample, indices: Sequence[int] | Tensor) -> PoseSample:
    """Rows ``indices`` of a batched sample, as a new batched sample (copies, never views)."""
    rows = torch.as_tensor(indices, dtype=torch.int64)
    numbers = rows.tolist()
    out: dict[str, Any] = {}
    for key, value in samples.items():
        out[key] = value.index_select(0, rows) if isinstance(value, Tensor) else [cast(Any, value)[i] for i in numbers]
    return cast(PoseSample, out)


def unbatch(samples: PoseSample, index: int) -> PoseSample:
    """Row ``index`` of a batched sample, without the batch dimension."""
    rows: Mapping[str, Any] = samples
    return cast(PoseSample, {k: v[index].clone() if isinstance(v, Tensor) else v[index] for k, v in rows.items()})


def group_names(samples: PoseSample, keys: Sequence[str]) -> list[str] | None:
    """What each row of a batched sample is grouped by: its labels under ``keys``, joined by a space ("S1 Walk").

    Args:
        samples: A batched sample.
        keys: Any of "subject", "clip" and "action"; none means no groups.

    Returns:
        A name for each row; None where there are no keys.

    Raises:
        ValueError: if the sample lacks a key.
    """
    if not keys:
        return None
    rows: Mapping[str, Any] = samples
    if missing := [key for key in keys if key not in rows]:
        raise ValueError(f"keys: the samples have no {', '.join(missing)} to be grouped by, only {', '.join(rows)}")
    return [" ".join(labels) for labels in zip(*(rows[key] for key in keys), strict=True)]


def concatenate(tables: Sequence[PoseSample]) -> PoseSample:
    """Joins batched samples row after row; keys that not all of them have are left out.

    Raises:
        ValueError: if there is nothing to join.
    """
    if not tables:
        raise ValueError("tables: expected at least one batched sample, got none")
    out: dict[str, Any] = {}
    for key in SAMPLE_KEYS:
        values: list[Any] = [cast(Mapping[str, Any], table)[key] for table in tables if key in table]
        if len(values) == len(tables):
            is_tensor = isinstance(values[0], Tensor)
            out[key] = torch.cat(values) if is_tensor else [text for value in values for text in value]
    return cast(PoseSample, out)
