"""For tests and tools only: tiny data sets in their real layouts on disk, stand-ins for bodies, assert functions."""

from posecore.testing.assertions import assert_pose_dataset
from posecore.testing.benchmarks import (
    write_human36m,
    write_humaneva,
    write_mpi_inf_3dhp,
    write_threedpw,
    write_zedo_files,
)
from posecore.testing.body_motion import swaying_body, with_pose_blend_shapes
from posecore.testing.composed import write_muco, write_ski_pose
from posecore.testing.hands import write_freihand, write_hand_model
from posecore.testing.human36m_archive import grey_of_frame, write_cdf, write_human36m_archive
from posecore.testing.mocap import CMU_CLIPS, bvh_text, write_cmu_mocap
from posecore.testing.photographs import write_coco, write_eft, write_mpii, write_up3d
from posecore.testing.smpl_files import (
    write_gendered_bodies,
    write_smpl_groups,
    write_smpl_npz,
    write_spin_npz,
    write_start_cache,
)
from posecore.testing.videos import write_video
from posecore.testing.world_motion import write_amass, write_emdb

__all__ = [
    "CMU_CLIPS",
    "assert_pose_dataset",
    "bvh_text",
    "grey_of_frame",
    "swaying_body",
    "with_pose_blend_shapes",
    "write_amass",
    "write_cdf",
    "write_cmu_mocap",
    "write_coco",
    "write_eft",
    "write_emdb",
    "write_freihand",
    "write_gendered_bodies",
    "write_hand_model",
    "write_human36m",
    "write_human36m_archive",
    "write_humaneva",
    "write_mpi_inf_3dhp",
    "write_mpii",
    "write_muco",
    "write_ski_pose",
    "write_smpl_groups",
    "write_smpl_npz",
    "write_spin_npz",
    "write_start_cache",
    "write_threedpw",
    "write_up3d",
    "write_video",
    "write_zedo_files",
]
