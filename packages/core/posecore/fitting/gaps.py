"""Frames of a video in which a person was not seen get an estimate from the frames around them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from posecore.fitting.estimate import SMPLEstimate
from posecore.geometry.rotation import rotmat_to_rot6d, slerp


def interpolate_gaps(
    estimate: SMPLEstimate,
    known: Bool[Tensor, " people"],
    track: Int[Tensor, " people"],
    frame: Int[Tensor, " people"],
) -> SMPLEstimate:
    """Replaces rows that are not known by what lies between their known neighbours in time.

    Rotations turn with constant speed on the shortest way (each joint's by itself), betas and translation change
    linearly. Before the first and after the last known row of a track the nearest known one is repeated. Known rows
    stay as they are, and what the others held is never read.

    Args:
        estimate: One row per person and frame.
        known: Which rows hold an estimate.
        track: Number of each row's track; rows of a track follow one another.
        frame: Frame number of each row, rising within a track.

    Raises:
        ValueError: If the rows of a track do not follow one another in time, or none of them is known.
    """
    _check_order(track, frame)
    before, after = _known_neighbours(known, track)
    between = (before != after).nonzero()[:, 0]
    start, end = before[between], after[between]
    share = (frame[between] - frame[start]).to(estimate.betas.dtype) / (frame[end] - frame[start])

    pose_rot6d, betas, transl = (values[before] for values in (estimate.pose_rot6d, estimate.betas, estimate.transl))
    turned = slerp(estimate.pose_rotmat[start], estimate.pose_rotmat[end], share[:, None])
    pose_rot6d[between] = rotmat_to_rot6d(turned)
    betas[between] = torch.lerp(estimate.betas[start], estimate.betas[end], share[:, None])
    transl[between] = torch.lerp(estimate.transl[start], estimate.transl[end], share[:, None])
    return SMPLEstimate(pose_rot6d, betas, transl)


def _check_order(track: Int[Tensor, " people"], frame: Int[Tensor, " people"]) -> None:
    same = track[1:] == track[:-1]
    if int((~same).sum()) + 1 > max(len(track.unique()), 1):
        raise ValueError(f"track: rows of a track must follow one another, got {track.tolist()}")
    back = (same & (frame[1:] <= frame[:-1])).nonzero()[:, 0]
    if len(back):
        row = int(back[0])
        raise ValueError(
            f"frame: must rise within a track, but track {int(track[row])} has frame {int(frame[row + 1])} after "
            f"frame {int(frame[row])}"
        )


def _known_neighbours(
    known: Bool[Tensor, " people"], track: Int[Tensor, " people"]
) -> tuple[Int[Tensor, " people"], Int[Tensor, " people"]]:
    """The known rows at or before and at or after each row; where there is one only, it is both."""
    rows = torch.arange(len(track), device=track.device)
    before = torch.where(known, rows, -1).cummax(dim=0).values
    after = torch.where(known, rows, len(rows)).flip(0).cummin(dim=0).values.flip(0)
    has_before = (before >= 0) & (track[before.clamp_min(0)] == track)
    has_after = (after < len(rows)) & (track[after.clamp_max(len(rows) - 1)] == track)
    lost = (~has_before & ~has_after).nonzero()[:, 0]
    if len(lost):
        raise ValueError(f"known: track {int(track[lost[0]])} has no known row to start from")
    return torch.where(has_before, before, after), torch.where(has_after, after, before)
