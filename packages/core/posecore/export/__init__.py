"""What a user takes away: files of predictions, written whole or not at all."""

from posecore.export.amass import write_amass
from posecore.export.body_motion import BodyMotion
from posecore.export.bvh import write_bvh
from posecore.export.files import OutputFolder, atomic_write, write_bytes, write_text
from posecore.export.gltf import write_animated_glb
from posecore.export.html import write_html
from posecore.export.html_scene import Scene, SceneBodies, SceneCamera, SceneMeshes, SceneSkeletons
from posecore.export.joint_angles import write_joint_angles
from posecore.export.meshes import write_glb, write_mesh, write_obj, write_ply
from posecore.export.predictions import (
    PosePredictions,
    read_predictions,
    write_predictions_json,
    write_predictions_npz,
)
from posecore.export.smpl_file import write_smpl_file
from posecore.export.smpl_predictions import (
    SMPLPredictions,
    read_smpl_predictions,
    write_smpl_json,
    write_smpl_npz,
)

__all__ = [
    "BodyMotion",
    "OutputFolder",
    "PosePredictions",
    "SMPLPredictions",
    "Scene",
    "SceneBodies",
    "SceneCamera",
    "SceneMeshes",
    "SceneSkeletons",
    "atomic_write",
    "read_predictions",
    "read_smpl_predictions",
    "write_amass",
    "write_animated_glb",
    "write_bvh",
    "write_bytes",
    "write_glb",
    "write_html",
    "write_joint_angles",
    "write_mesh",
    "write_obj",
    "write_ply",
    "write_predictions_json",
    "write_predictions_npz",
    "write_smpl_file",
    "write_smpl_json",
    "write_smpl_npz",
    "write_text",
]
