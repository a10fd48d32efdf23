"""What a user takes away: files of predictions, written whole or not at all."""

from posecore.export.amass import write_amass
from posecore.export.files import OutputFolder, atomic_write, write_bytes, write_text
from posecore.export.meshes import write_glb, write_mesh, write_obj, write_ply
from posecore.export.predictions import (
    PosePredictions,
    read_predictions,
    write_predictions_json,
    write_predictions_npz,
)
from posecore.export.smpl_predictions import (
    SMPLPredictions,
    read_smpl_predictions,
    write_smpl_json,
    write_smpl_npz,
)

__all__ = [
    "OutputFolder",
    "PosePredictions",
    "SMPLPredictions",
    "atomic_write",
    "read_predictions",
    "read_smpl_predictions",
    "write_amass",
    "write_bytes",
    "write_glb",
    "write_mesh",
    "write_obj",
    "write_ply",
    "write_predictions_json",
    "write_predictions_npz",
    "write_smpl_json",
    "write_smpl_npz",
    "write_text",
]
