"""The meshes that are learnt and scored: posed by the true parameters, or as the data set has them."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmdiff.mesh import CoarseMesh
from posecore.body.files import BodyModel, Gender, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JointSet
from posecore.body.smpl import SMPLLayer
from posecore.data.sample import PoseSample
from posecore.geometry.placement import solve_translation


class TrueMeshes(nn.Module):
    """True meshes of a batch, metres, camera frame.

    Args:
        mesh: The coarse mesh.
        model: The body of the parameters.
        keypoints: The joints of ``joints_2d_px``, from which the place of a body is had that has no ``transl``; None
            where the data sets know meshes.
        body_model: Its file or folder, where gendered bodies are had.
        level: Level of the pyramid that training needs; the coarsest where -1.
    """

    def __init__(
        self,
        mesh: CoarseMesh,
        model: BodyModel,
        keypoints: JointSet | None,
        body_model: Path | None = None,
        level: int = -1,
    ) -> None:
        super().__init__()
        # A reference, not a part: the module has it already.
        self._mesh = [mesh]
        self.body_model = body_model
        self.level = level
        self.register_buffer("_ids", mesh.vertex_ids if level == -1 else mesh.mid_ids, persistent=False)
        self.layer = SMPLLayer(model, joints=(), vertices=cast(Tensor, self._ids).tolist())
        self.full_layer = SMPLLayer(model)
        self.keypoints = None if keypoints is None else NamedJoints(keypoints, model)
        self._gendered: dict[str, SMPLLayer] = {}

    @property
    def mesh(self) -> CoarseMesh:
        """The coarse mesh."""
        return self._mesh[0]

    def level_vertices(self, batch: PoseSample) -> Float[Tensor, "rows vertices 3"]:
        """Vertices of the level; of rows that are not known, whatever the data hold.

        Raises:
            ValueError: Nothing in the batch says where the bodies are.
        """
        if "vertices_cam" in batch:
            return batch["vertices_cam"][:, cast(Tensor, self._ids)]
        parameters = batch["betas"], batch["body_pose"], batch["global_orient"]
        if "transl" in batch:
            placed: Tensor = self.layer(*parameters, batch["transl"]).vertices
            return placed
        if self.keypoints is None:
            raise ValueError("batch: has neither vertices_cam nor transl, and no keypoints that would place a body")
        joints = self.keypoints(*parameters)[:, None]
        transl = solve_translation(joints, batch["joints_2d_px"], batch["confidence"], batch["K"])[:, 0]
        vertices: Tensor = self.layer(*parameters, transl).vertices
        return vertices

    def coarse_of_level(self, vertices: Float[Tensor, "rows vertices 3"]) -> Float[Tensor, "rows coarse 3"]:
        """The coarse mesh out of `level_vertices`."""
        if self.level == -1:
            return vertices
        return self.mesh.pyramid.downsample(vertices, source=self.level)

    def full(self, batch: PoseSample) -> tuple[Float[Tensor, "rows vertices 3"], Float[Tensor, "rows joints 3"] | None]:
        """The full mesh of the person's own body, and its kinematic joints where it has parameters.

        Both at the origin of the body or in the camera frame: scores take the root away.
        """
        if "vertices_cam" in batch:
            return batch["vertices_cam"], None
        genders = batch.get("gender") or ["neutral"] * len(batch["betas"])
        vertices, joints = None, None
        for gender in dict.fromkeys(genders):
            rows = torch.tensor([other == gender for other in genders], device=batch["betas"].device)
            body = self._layer(gender, batch["betas"].device)
            posed = body(batch["betas"][rows], batch["body_pose"][rows], batch["global_orient"][rows])
            if vertices is None or joints is None:
                vertices, joints = (
                    found.new_zeros(len(genders), *found.shape[1:]) for found in (posed.vertices, posed.joints)
                )
            vertices[rows], joints[rows] = posed.vertices, posed.joints
        assert vertices is not None
        return vertices, joints

    def _layer(self, gender: str, device: torch.device) -> SMPLLayer:
        if gender == "neutral" or self.body_model is None:
            return self.full_layer
        if gender not in self._gendered:
            self._gendered[gender] = SMPLLayer(load_body_model(self.body_model, cast(Gender, gender)))
        return self._gendered[gender].to(device)
