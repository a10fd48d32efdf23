import inspect
import pickle

import numpy as np
import pytest
import smplx
import torch
from smplx.lbs import lbs as smplx_lbs

from posecore.body.files import OPEN_BODY, BodyModel, load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat, rotmat_to_rot6d


def make_body(num_vertices, num_joints, num_betas, generator, posedirs=True, dtype=torch.float32):
    """A body of random numbers: every vertex follows two joints."""
    weights = torch.zeros(num_vertices, num_joints, dtype=dtype)
    parents = (torch.rand(num_joints - 1, generator=generator) * torch.arange(1, num_joints)).long()
    near = torch.randint(num_joints, (num_vertices, 2), generator=generator)
    weights.scatter_(1, near, torch.rand(num_vertices, 2, generator=generator, dtype=dtype) + 0.1)
    regressor = torch.rand(num_joints, num_vertices, generator=generator, dtype=dtype)
    pose_features = torch.randn(num_vertices, 3, 9 * (num_joints - 1), generator=generator, dtype=dtype) * 0.01
    return BodyModel(
        name="random",
        v_template=torch.randn(num_vertices, 3, generator=generator, dtype=dtype),
        shapedirs=torch.randn(num_vertices, 3, num_betas, generator=generator, dtype=dtype) * 0.1,
        posedirs=pose_features * posedirs,
        J_regressor=regressor / regressor.sum(dim=1, keepdim=True),
        parents=torch.cat([torch.tensor([-1]), parents]),
        lbs_weights=weights / weights.sum(dim=1, keepdim=True),
        faces=torch.zeros(0, 3, dtype=torch.long),
    )


@pytest.fixture(scope="module")
def open_body():
    return load_body_model()


@pytest.fixture(scope="module")
def layer(open_body):
    return SMPLLayer(open_body)


def draw(batch, generator, dtype=torch.float32, num_joints=24):
    """betas, body_pose, global_orient, transl; the pose in axis-angle."""
    betas, pose, transl = (
        torch.randn(*batch, *shape, generator=generator, dtype=dtype) for shape in ((10,), (num_joints, 3), (3,))
    )
    return betas, pose[..., 1:, :] * 0.5, pose[..., 0, :], transl


@pytest.mark.parametrize("posedirs", [False, True])
@pytest.mark.parametrize("extension", ["npz", "pkl"])
def test_agrees_with_smplx_in_value_and_gradient(tmp_path, generator, posedirs, extension):
    arrays = dict(np.load(OPEN_BODY))
    if posedirs:  # the open body has none
        arrays["posedirs"] = np.random.default_rng(0).normal(size=(6890, 3, 207)).astype(np.float32) * 1e-3
    file = tmp_path / "smpl" / f"SMPL_NEUTRAL.{extension}"
    file.parent.mkdir()
    if extension == "npz":
        np.savez(file, **arrays)
        reference = smplx.SMPLLayer("", data_struct=smplx.utils.Struct(**np.load(file)), num_betas=10)
    else:
        file.write_bytes(pickle.dumps(arrays))
        reference = smplx.create(str(tmp_path), model_type="smpl", num_betas=10, batch_size=4)
    layer = SMPLLayer(load_body_model(file))

    betas, body_pose, global_orient, transl = inputs = [x.requires_grad_() for x in draw((4,), generator)]
    ours = layer(*inputs, pose_repr="axis_angle")
    if extension == "npz":
        rotmats = axis_angle_to_rotmat(body_pose), axis_angle_to_rotmat(global_orient[:, None])
        theirs = reference(betas, *rotmats, transl, pose2rot=False)
    else:
        theirs = reference(betas=betas, body_pose=body_pose.flatten(1), global_orient=global_orient, transl=transl)
    pairs = [(ours.vertices, theirs.vertices), (ours.joints, theirs.joints[:, :24])]
    for value, expected in pairs:
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)

    direction = torch.randn(4, 6890 + 24, 3, generator=generator)
    sums = [(torch.cat(side, dim=1) * direction).sum() for side in zip(*pairs, strict=True)]
    gradients = [torch.autograd.grad(side, inputs) for side in sums]
    for value, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("sizes", [(50, 5, 4), (778, 16, 10), (30, 1, 1)])  # the second is MANO's
def test_any_number_of_vertices_joints_and_shapes(sizes, generator):
    body = make_body(*sizes, generator, dtype=torch.float64)
    _, num_joints, num_betas = sizes
    rotmat = random_rotmat((3, num_joints), generator, dtype=torch.float64)
    betas = torch.randn(3, num_betas, generator=generator, dtype=torch.float64)
    output = SMPLLayer(body)(betas, rotmat[:, 1:], rotmat[:, 0])
    vertices, joints = smplx_lbs(
        betas,
        rotmat,
        body.v_template,
        body.shapedirs,
        body.posedirs.flatten(0, 1).T,
        body.J_regressor,
        body.parents,
        body.lbs_weights,
        pose2rot=False,
    )
    torch.testing.assert_close(output.vertices, vertices)
    torch.testing.assert_close(output.joints, joints)


@pytest.mark.parametrize("seed", range(5))
def test_a_subset_equals_that_part_of_the_whole(seed):
    generator = torch.Generator().manual_seed(seed)
    body = make_body(60, 8, 4, generator, posedirs=seed % 2 == 0, dtype=torch.float64)
    joints = torch.randperm(8, generator=generator)[: seed + 1].tolist()
    vertices = torch.randperm(60, generator=generator)[: 3 * seed].tolist()
    regressor = torch.zeros(3, 60, dtype=torch.float64)
    columns = torch.randperm(60, generator=generator)[:6]
    regressor[:, columns] = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    inputs = [
        torch.randn(2, 4, generator=generator, dtype=torch.float64),
        random_rotmat((2, 7), generator, dtype=torch.float64),
        random_rotmat((2,), generator, dtype=torch.float64),
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
    ]
    for value in inputs:
        value.requires_grad_()
    layer = SMPLLayer(body)
    whole, part = layer(*inputs), layer.subset(joints, vertices, regressor)(*inputs)

    unmoved = layer(*inputs[:3])  # a regressor acts before the translation: its rows need not sum to 1
    regressed = regressor @ unmoved.vertices + inputs[3][:, None]
    expected = torch.cat([whole.joints[:, joints], regressed], dim=1), whole.vertices[:, vertices]
    torch.testing.assert_close((part.joints, part.vertices), expected)
    gradients = torch.autograd.grad(part.joints.square().sum() + part.vertices.square().sum(), inputs)
    expected_gradients = torch.autograd.grad(sum(x.square().sum() for x in expected), inputs)
    torch.testing.assert_close(gradients, expected_gradients)


def test_a_subset_never_looks_at_vertices_it_does_not_need(open_body, generator):
    regressor = torch.zeros(1, 6890)
    regressor[0, 100] = 1
    kept = torch.zeros(6890, dtype=torch.bool)
    kept[[5, 100]] = True
    spoilt = BodyModel(
        **{
            **vars(open_body),
            "lbs_weights": open_body.lbs_weights.where(kept[:, None], torch.tensor(torch.nan)),
            "posedirs": open_body.posedirs.where(kept[:, None, None], torch.tensor(torch.nan)),
        }
    )
    inputs = draw((2,), generator)
    output = SMPLLayer(spoilt, joints=[20], vertices=[5], regressor=regressor)(*inputs, pose_repr="axis_angle")
    whole = SMPLLayer(open_body)(*inputs, pose_repr="axis_angle")
    torch.testing.assert_close(output.vertices, whole.vertices[:, [5]])
    torch.testing.assert_close(output.joints, torch.stack([whole.joints[:, 20], whole.vertices[:, 100]], dim=1))


def test_landmarks_are_vertices(open_body, layer, generator):
    inputs = draw((2,), generator)
    picked = layer.subset(regressor=open_body.landmark_regressor(["nose", "l_heel"]))(*inputs, pose_repr="axis_angle")
    ids = [int(open_body.landmark_vertex_ids[open_body.landmark_names.index(name)]) for name in ("nose", "l_heel")]
    torch.testing.assert_close(picked.joints, layer(*inputs, pose_repr="axis_angle").vertices[:, ids])
    assert picked.vertices.shape == (2, 0, 3)


def test_pose_representations_are_the_same_pose(layer, generator):
    betas, body_pose, global_orient, transl = draw((2,), generator)
    expected = layer(betas, body_pose, global_orient, transl, pose_repr="axis_angle").vertices
    rotmats = axis_angle_to_rotmat(body_pose), axis_angle_to_rotmat(global_orient)
    torch.testing.assert_close(layer(betas, *rotmats, transl).vertices, expected)
    six = [rotmat_to_rot6d(rotmat) for rotmat in rotmats]
    torch.testing.assert_close(layer(betas, *six, transl, pose_repr="rot6d").vertices, expected)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_shapes_and_dtypes(layer, batch, dtype, generator):
    inputs = draw(batch, generator, dtype)
    small = layer.subset(joints=range(24), vertices=range(40))
    output = small(*inputs, pose_repr="axis_angle")
    assert output.vertices.shape == (*batch, 40, 3)
    assert output.joints.shape == (*batch, 24, 3)
    assert output.vertices.dtype == output.joints.dtype == dtype
    first = [x.reshape(-1, *x.shape[len(batch) :])[0] for x in inputs]
    torch.testing.assert_close(output.vertices.reshape(-1, 40, 3)[0], small(*first, pose_repr="axis_angle").vertices)


def test_no_bodies_at_all(layer, generator):
    output = layer(*draw((0,), generator), pose_repr="axis_angle")
    assert output.vertices.shape == (0, 6890, 3)


def test_inputs_broadcast(layer, generator):
    betas, body_pose, global_orient, transl = draw((2, 3), generator)
    small = layer.subset(vertices=range(40))
    output = small(betas[0, 0], body_pose, global_orient[:, :1], transl[0, 0], pose_repr="axis_angle")
    betas_full, transl_full = betas[:1, :1].expand(2, 3, 10), transl[:1, :1].expand(2, 3, 3)
    full = small(betas_full, body_pose, global_orient[:, :1].expand(2, 3, 3), transl_full, pose_repr="axis_angle")
    torch.testing.assert_close(output.vertices, full.vertices)
    many_shapes = small(betas, body_pose[0, 0], global_orient[0, 0], pose_repr="axis_angle")
    one = small(betas[1, 2], body_pose[0, 0], global_orient[0, 0], pose_repr="axis_angle")
    torch.testing.assert_close(many_shapes.vertices[1, 2], one.vertices)


def test_missing_betas_are_zero(layer, generator):
    betas, *pose = draw((2,), generator)
    padded = torch.cat([betas[:, :4], torch.zeros(2, 6)], dim=1)
    expected = layer(padded, *pose, pose_repr="axis_angle")
    output = layer(betas[:, :4], *pose, pose_repr="axis_angle")
    torch.testing.assert_close((output.vertices, output.joints), (expected.vertices, expected.joints))


def test_global_orient_turns_about_the_rest_pelvis(layer, generator):
    betas, body_pose, global_orient, _ = draw((2,), generator)
    upright = layer(betas, body_pose, torch.zeros(2, 3), pose_repr="axis_angle").vertices
    turned = layer(betas, body_pose, global_orient, pose_repr="axis_angle").vertices
    pelvis = layer.rest_joints(betas)[:, :1]
    expected = (upright - pelvis) @ axis_angle_to_rotmat(global_orient).transpose(-1, -2) + pelvis
    torch.testing.assert_close(turned, expected)


def test_rest_joints_are_regressed_from_the_shaped_body(open_body, layer, generator):
    betas = torch.randn(3, 10, generator=generator)
    shaped = open_body.v_template + torch.einsum("vcb,nb->nvc", open_body.shapedirs, betas)
    torch.testing.assert_close(layer.rest_joints(betas), open_body.J_regressor @ shaped, rtol=0, atol=1e-5)


def test_autocast_and_half_precision_are_raised_to_float32(layer, generator):
    betas, *pose = draw((2,), generator)
    exact = layer(betas, *pose, pose_repr="axis_angle").vertices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(betas, *pose, pose_repr="axis_angle").vertices
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact)
    assert layer(*(x.bfloat16() for x in (betas, *pose)), pose_repr="axis_angle").vertices.dtype == torch.float32


def test_leaves_inputs_and_checkpoints_alone(layer, generator):
    inputs = draw((2,), generator)
    copies = [x.clone() for x in inputs]
    layer(*inputs, pose_repr="axis_angle")
    torch.testing.assert_close(list(inputs), copies)
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_the_open_body_is_the_default(layer, generator):
    inputs = draw((), generator)
    default = SMPLLayer()(*inputs, pose_repr="axis_angle")
    torch.testing.assert_close(default.joints, layer(*inputs, pose_repr="axis_angle").joints)
    assert (layer.num_betas, layer.num_body_joints) == (10, 23)


def test_bad_arguments(layer, open_body, generator):
    betas, body_pose, global_orient, _ = draw((2,), generator)
    with pytest.raises(ValueError, match="pose_repr is 'quaternion'; valid are 'rotmat', 'axis_angle', 'rot6d'"):
        # Unwrapped, because the tests' type checker refuses the word before the layer can.
        inspect.unwrap(SMPLLayer.forward)(layer, betas, body_pose, global_orient, pose_repr="quaternion")
    with pytest.raises(ValueError, match=r"body_pose has shape \(2, 22, 3\); it must end in \(23, 3\)"):
        layer(betas, body_pose[:, 1:], global_orient, pose_repr="axis_angle")
    with pytest.raises(ValueError, match=r"global_orient has shape \(2, 3\); it must end in \(3, 3\)"):
        layer(betas, axis_angle_to_rotmat(body_pose), global_orient)
    with pytest.raises(ValueError, match="betas has 11 components; the body has 10"):
        layer(torch.zeros(2, 11), body_pose, global_orient, pose_repr="axis_angle")
    with pytest.raises(ValueError, match="betas has 11 components; the body has 10"):
        layer.rest_joints(torch.zeros(11))
    with pytest.raises(ValueError, match="joints must be from 0 to 23, but hold 0 to 24"):
        layer.subset(joints=[0, 24])
    with pytest.raises(ValueError, match="vertices must be from 0 to 6889, but hold -1 to 3"):
        layer.subset(vertices=[3, -1])
    with pytest.raises(ValueError, match="regressor has 100 columns; the body has 6890 vertices"):
        layer.subset(regressor=torch.ones(1, 100))
    with pytest.raises(ValueError, match="ask for at least one"):
        layer.subset()
    with pytest.raises(ValueError, match=r"no landmarks \['tail'\]; it has .*'nose'"):
        open_body.landmark_regressor(["nose", "tail"])


@pytest.mark.gpu
def test_on_a_gpu(open_body, generator):
    inputs = draw((3,), generator)
    expected = SMPLLayer(open_body)(*inputs, pose_repr="axis_angle")
    on_gpu = SMPLLayer(open_body).cuda()
    output = on_gpu(*(x.cuda() for x in inputs), pose_repr="axis_angle")
    torch.testing.assert_close(output.vertices.cpu(), expected.vertices, rtol=0, atol=1e-5)
    part = on_gpu.subset(joints=[3], regressor=open_body.landmark_regressor(["nose"]))
    output = part(*(x.cuda() for x in inputs), pose_repr="axis_angle")
    torch.testing.assert_close(output.joints[:, 0].cpu(), expected.joints[:, 3], rtol=0, atol=1e-5)
