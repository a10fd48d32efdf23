import pytest

from posecore.body.skeletons import H36M_17
from posecore.data.smpl_motion import smpl_motion_samples


def test_no_motion() -> None:
    with pytest.raises(ValueError, match="motions: expected at least one clip, got none"):
        smpl_motion_samples([], H36M_17)
