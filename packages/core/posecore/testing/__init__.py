"""For tests and tools only: tiny data sets in their real layouts on disk, stand-ins for bodies, assert functions."""

from posecore.testing.assertions import assert_pose_dataset
from posecore.testing.benchmarks import (
    write_human36m,
    write_humaneva,
    write_mpi_inf_3dhp,
    write_threedpw,
    write_zedo_files,
)
from posecore.testing.hands import write_freihand, write_hand_model
from posecore.testing.mocap import CMU_CLIPS, bvh_text, write_cmu_mocap
from posecore.testing.smpl_files import (
    write_gendered_bodies,
    write_smpl_groups,
    write_smpl_npz,
    write_spin_npz,
    write_start_cache,
)

__all__ = [
    "CMU_CLIPS",
    "assert_pose_dataset",
    "bvh_text",
    "write_cmu_mocap",
    "write_freihand",
    "write_gendered_bodies",
    "write_hand_model",
    "write_human36m",
    "write_humaneva",
    "write_mpi_inf_3dhp",
    "write_smpl_groups",
    "write_smpl_npz",
    "write_spin_npz",
    "write_start_cache",
    "write_threedpw",
    "write_zedo_files",
]
