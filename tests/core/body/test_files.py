import pickle
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse
import torch
from smplx.vertex_ids import vertex_ids

from posecore.body.files import OPEN_BODY, load_body_model
from posecore.body.skeletons import H36M_17
from posecore.body.smpl import SMPLLayer
from posecore.safe_pickle import UnsafePickleError


def make_arrays(num_vertices=40, num_joints=24, num_betas=10, seed=0):
    """Arrays as in an official file, of random numbers."""
    rng = np.random.default_rng(seed)
    weights = rng.random((num_vertices, num_joints))
    regressor = rng.random((num_joints, num_vertices)) * (rng.random((num_joints, num_vertices)) < 0.3)
    parents = [2**32 - 1, *(int(rng.integers(joint)) for joint in range(1, num_joints))]
    return {
        "v_template": rng.normal(size=(num_vertices, 3)),
        "shapedirs": rng.normal(size=(num_vertices, 3, num_betas)),
        "posedirs": rng.normal(size=(num_vertices, 3, 9 * (num_joints - 1))),
        "J_regressor": regressor,
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "kintree_table": np.array([parents, range(num_joints)], dtype=np.uint32),
        "f": rng.integers(num_vertices, size=(10, 3)).astype(np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def make_chumpy(monkeypatch):
    """Classes that pickle as chumpy's do, there only while a test writes a file."""

    class Ch:
        def __init__(self, **terms):
            self.__dict__.update(
                terms, _dirty_vars={"x"}, _itr=None, _depends_on_deps={"A": {"deps": (), "value": None}}
            )

    modules = {"Ch": "chumpy.ch", "Select": "chumpy.reordering", "Reshape": "chumpy.reordering", "add": "chumpy.ch_ops"}
    classes = {}
    for name, module_name in modules.items():
        classes[name] = type(name, (Ch,), {"__module__": module_name, "__qualname__": name})
    for package in ("chumpy", *modules.values()):
        module = ModuleType(package)
        for name, cls in classes.items():
            setattr(module, name, cls)
        monkeypatch.setitem(sys.modules, package, module)
    return classes


def write_official(path, arrays, monkeypatch, protocol=2):
    """A .pkl like SMPL 1.0's: chumpy arrays, a selection of more shape components, a scipy matrix."""
    with monkeypatch.context() as patch:
        chumpy = make_chumpy(patch)
        more = np.concatenate([arrays["shapedirs"], np.ones_like(arrays["shapedirs"])], axis=-1)
        chosen = np.arange(more.size).reshape(more.shape)[..., : arrays["shapedirs"].shape[-1]]
        content = {
            **arrays,
            "v_template": chumpy["Ch"](x=arrays["v_template"]),
            "posedirs": chumpy["Reshape"](
                a=chumpy["Ch"](x=arrays["posedirs"].ravel()), newshape=arrays["posedirs"].shape
            ),
            "shapedirs": chumpy["Select"](a=chumpy["Ch"](x=more), idxs=chosen.ravel(), preferred_shape=chosen.shape),
            "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert "chumpy" not in sys.modules
    return path


def assert_holds(body, arrays):
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor"):
        np.testing.assert_allclose(getattr(body, key), arrays[key], rtol=1e-6)
    np.testing.assert_allclose(body.lbs_weights, arrays["weights"], rtol=1e-6)
    np.testing.assert_array_equal(body.faces, arrays["f"])
    assert body.parents.tolist() == [-1, *arrays["kintree_table"][0, 1:].tolist()]


OFFICIAL_NAMES = [
    ("basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", "neutral"),
    ("basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", "neutral"),
    ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", "female"),
    ("basicmodel_m_lbs_10_207_0_v1.0.0.pkl", "male"),
    ("basicmodel_m_lbs_10_207_0_v1.1.0.pkl", "male"),
    ("SMPL_NEUTRAL.pkl", "neutral"),
    ("smpl_female.pkl", "female"),
]


@pytest.mark.parametrize(("name", "gender"), OFFICIAL_NAMES)
@pytest.mark.parametrize("folder", ["", "smpl", "models", "smpl/models"])
def test_finds_official_files_in_a_folder(tmp_path, monkeypatch, name, gender, folder):
    arrays = make_arrays()
    write_official(tmp_path / folder / name, arrays, monkeypatch)
    (tmp_path / folder / "readme.txt").write_text("not a model")
    assert_holds(load_body_model(tmp_path, gender), arrays)
    others = {"neutral", "female", "male"} - {gender}
    for other in others:
        with pytest.raises(FileNotFoundError, match=f"no {other} body model"):
            load_body_model(tmp_path, other)


def test_prefers_the_newest_release(tmp_path, monkeypatch):
    old, new = make_arrays(seed=0), make_arrays(seed=1)
    write_official(tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl", old, monkeypatch)
    write_official(tmp_path / "basicmodel_f_lbs_10_207_0_v1.1.0.pkl", new, monkeypatch)
    assert_holds(load_body_model(tmp_path, "female"), new)
    assert_holds(load_body_model(tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl"), old)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_reads_chumpy_without_chumpy(tmp_path, monkeypatch, protocol):
    arrays = make_arrays()
    path = write_official(tmp_path / "model.pkl", arrays, monkeypatch, protocol)
    body = load_body_model(path)
    assert_holds(body, arrays)
    assert body.name == "model"
    assert SMPLLayer(body)(
        torch.zeros(10), torch.zeros(23, 3), torch.zeros(3), pose_repr="axis_angle"
    ).vertices.shape == (40, 3)


@pytest.mark.parametrize("layout", ["csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array"])
def test_reads_every_scipy_layout(tmp_path, layout):
    arrays = make_arrays()
    sparse = getattr(scipy.sparse, layout)(arrays["J_regressor"])
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({**arrays, "J_regressor": sparse}))
    assert_holds(load_body_model(path), arrays)
    # The module names of old scipy releases, as in the official files.
    path.write_bytes(
        pickle.dumps({**arrays, "J_regressor": sparse}, protocol=0).replace(b"scipy.sparse._", b"scipy.sparse.")
    )
    assert_holds(load_body_model(path), arrays)


def test_reads_npz(tmp_path):
    arrays = make_arrays()
    np.savez(tmp_path / "SMPL_MALE.npz", **arrays)
    assert_holds(load_body_model(tmp_path, "male"), arrays)


def test_keeps_as_many_shape_components_as_asked(tmp_path):
    arrays = make_arrays(num_betas=300)
    np.savez(tmp_path / "model.npz", **arrays)
    for asked, kept in ((10, 10), (16, 16), (None, 300), (400, 300)):
        body = load_body_model(tmp_path / "model.npz", num_betas=asked)
        np.testing.assert_allclose(body.shapedirs, arrays["shapedirs"][..., :kept], rtol=1e-6)


def test_reads_mano(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = make_arrays(num_vertices=778, num_joints=16)
    arrays |= {"hands_components": rng.normal(size=(45, 45)), "hands_mean": rng.normal(size=45)}
    for path in (tmp_path / "MANO_RIGHT.pkl", tmp_path / "MANO_LEFT.npz"):
        if path.suffix == ".pkl":
            write_official(path, arrays, monkeypatch)
        else:
            np.savez(path, **arrays)
        body = load_body_model(path)
        assert_holds(body, arrays)
        np.testing.assert_allclose(body.hand_components, arrays["hands_components"], rtol=1e-6)
        np.testing.assert_allclose(body.hand_mean, arrays["hands_mean"], rtol=1e-6)
        tips = {"thumb_tip": 744, "index_tip": 320, "middle_tip": 443, "ring_tip": 554, "pinky_tip": 671}
        assert dict(zip(body.landmark_names, body.landmark_vertex_ids.tolist(), strict=True)) == tips
        assert {name.removesuffix("_tip"): vertex for name, vertex in tips.items()} == vertex_ids["mano"]


def test_a_hand_names_its_own_landmarks_and_other_meshes_have_none(tmp_path):
    arrays = make_arrays(num_vertices=778, num_joints=16)
    np.savez(tmp_path / "own.npz", **arrays, landmark_names=["rthumb"], landmark_vertex_ids=[7])
    body = load_body_model(tmp_path / "own.npz")
    assert (body.landmark_names, body.landmark_vertex_ids.tolist()) == (("r_thumb",), [7])
    np.savez(tmp_path / "other.npz", **make_arrays(num_vertices=778, num_joints=15))
    assert load_body_model(tmp_path / "other.npz").landmark_names == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(tmp_path, dtype):
    arrays = make_arrays()
    np.savez(tmp_path / "model.npz", **arrays)
    body = load_body_model(tmp_path / "model.npz", dtype=dtype)
    assert {body.v_template.dtype, body.shapedirs.dtype, body.J_regressor.dtype, body.lbs_weights.dtype} == {dtype}
    torch.testing.assert_close(body.v_template, torch.from_numpy(arrays["v_template"]).to(dtype), rtol=0, atol=0)


def test_the_open_body():
    body = load_body_model()
    assert body.name == "open_body"
    assert body.v_template.shape == (6890, 3)
    assert body.lbs_weights.shape == (6890, 24)
    assert body.J_regressor_h36m.shape == (17, 6890)
    for regressor in (body.J_regressor, body.J_regressor_h36m, body.lbs_weights):
        torch.testing.assert_close(regressor.sum(dim=1), torch.ones(len(regressor)), rtol=0, atol=1e-5)
    picked = dict(zip(body.landmark_names, body.v_template[body.landmark_vertex_ids], strict=True))
    assert picked["l_ear"][0] > 0 > picked["r_ear"][0]
    assert picked["nose"][2] > picked["l_eye"][2] > picked["l_ear"][2]
    assert picked["l_big_toe"][1] < picked["nose"][1]
    assert {"r_small_toe", "l_heel", "r_heel", "r_eye"} <= set(body.landmark_names)


def test_smpl_sized_bodies_get_smpl_landmarks(tmp_path):
    arrays = {key: value for key, value in np.load(OPEN_BODY).items() if "landmark" not in key and "h36m" not in key}
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **arrays)
    body = load_body_model(tmp_path)
    assert body.J_regressor_h36m is None
    assert body.landmark_vertex_ids[body.landmark_names.index("nose")] == 332


# SPIN's J_regressor_h36m.npy, by the names of H36M_17: SPIN reads right ankle to right hip in rows 6 5 4, left hip to
# left ankle in rows 1 2 3, and the arms as everyone does. Pose2Mesh's file is in the order of H36M_17.
SPIN_ORDER = [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]


@pytest.mark.parametrize("order", [SPIN_ORDER, list(range(17))], ids=["SPIN", "Pose2Mesh"])
@pytest.mark.parametrize("place", ["beside.npy", "above.npy", "inside.npz"])
def test_either_order_of_the_h36m_regressor_becomes_h36m17(tmp_path, place, order):
    arrays = make_arrays()
    regressor = np.random.default_rng(1).random((17, 40))
    # The rest pose has its left at +x.
    left, right = H36M_17.index("l_hip"), H36M_17.index("r_hip")
    if (regressor @ arrays["v_template"][:, 0])[left] < (regressor @ arrays["v_template"][:, 0])[right]:
        arrays["v_template"][:, 0] *= -1
    file = regressor[order]
    if place == "inside.npz":
        arrays["J_regressor_h36m"] = file
    (tmp_path / "smpl").mkdir()
    np.savez(tmp_path / "smpl" / "SMPL_NEUTRAL.npz", **arrays)
    if place != "inside.npz":
        np.save((tmp_path if place == "above.npy" else tmp_path / "smpl") / "J_regressor_h36m.npy", file)
    np.testing.assert_array_equal(load_body_model(tmp_path, dtype=torch.float64).J_regressor_h36m, regressor)


def test_the_h36m_regressor_is_not_for_hands(tmp_path):
    np.savez(tmp_path / "MANO_RIGHT.npz", **make_arrays(num_vertices=778, num_joints=16))
    np.save(tmp_path / "J_regressor_h36m.npy", np.ones((17, 6890)))
    assert load_body_model(tmp_path / "MANO_RIGHT.npz").J_regressor_h36m is None


def test_h36m_regressors_that_do_not_fit(tmp_path):
    beside = tmp_path / "J_regressor_h36m.npy"
    np.savez(tmp_path / "model.npz", **make_arrays())
    np.save(beside, np.ones((17, 6890)))
    with pytest.raises(ValueError, match=r"h36m\.npy: J_regressor_h36m has shape \(17, 6890\), but \(17, 40\) fits"):
        load_body_model(tmp_path / "model.npz")
    beside.write_bytes(beside.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"h36m\.npy is not a whole \.npy array"):
        load_body_model(tmp_path / "model.npz")
    np.savez(tmp_path / "model.npz", **make_arrays(), J_regressor_h36m=np.ones((16, 40)))
    with pytest.raises(ValueError, match=r"model\.npz: J_regressor_h36m has shape \(16, 40\), but \(17, 40\) fits"):
        load_body_model(tmp_path / "model.npz")


@pytest.mark.parametrize("missing", ["", "SMPL_NEUTRAL.pkl"])
def test_a_missing_file_says_where_to_get_it_and_where_to_put_it(tmp_path, missing):
    with pytest.raises(FileNotFoundError) as caught:
        load_body_model(tmp_path / missing)
    message = str(caught.value)
    assert f"no neutral body model at {tmp_path / missing}" in message
    assert "register at https://smpl.is.tue.mpg.de" in message
    assert f"put basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl into {tmp_path};" in message
    with pytest.raises(FileNotFoundError, match=r"put basicmodel_f_lbs_10_207_0_v1\.1\.0\.pkl"):
        load_body_model(tmp_path, "female")


def test_bad_arguments():
    with pytest.raises(ValueError, match="gender is 'female', but the open body is neutral"):
        load_body_model(gender="female")
    with pytest.raises(ValueError, match="gender is 'f'; valid are 'neutral', 'female', 'male'"):
        load_body_model.__wrapped__(gender="f")  # the tests' type checker would refuse it first
    with pytest.raises(ValueError, match="num_betas is 0; it must be at least 1"):
        load_body_model(num_betas=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, r"model\.npz is no body model: it has no 'weights'"),
        ({"v_template": np.zeros((39, 3))}, r"weights has shape \(40, 24\), but \(39, 24\) fits"),
        ({"shapedirs": np.zeros((40, 2, 10))}, r"shapedirs has shape \(40, 2\), but \(40, 3\) fits"),
        ({"posedirs": np.zeros((40, 3, 206))}, r"posedirs has shape \(40, 3, 206\), but \(40, 3, 207\) fits"),
        ({"J_regressor": np.zeros((24, 6890))}, r"J_regressor has shape \(24, 6890\), but \(24, 40\) fits"),
        ({"weights": np.zeros(3)}, r"weights has shape \(3,\), but \(40, 24\) fits"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, change, message):
    arrays = {key: value for key, value in {**make_arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_body_model(tmp_path / "model.npz")


def test_files_of_other_kinds(tmp_path, monkeypatch):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(ValueError, match=r"model\.pkl holds a list, not the arrays of a body model"):
        load_body_model(path)
    path.write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match=r"model\.pkl is not a whole pickle"):
        load_body_model(path)
    shutil.copy(path, tmp_path / "model.npz")
    with pytest.raises(ValueError, match=r"model\.npz is not a whole \.npz file"):
        load_body_model(tmp_path / "model.npz")
    path.write_bytes(pickle.dumps({**make_arrays(), "v_template": shutil.rmtree}))
    with pytest.raises(UnsafePickleError, match=r"model\.pkl asks for 'shutil\.rmtree'"):
        load_body_model(path)
    with monkeypatch.context() as patch:
        chumpy = make_chumpy(patch)
        sums = pickle.dumps({**make_arrays(), "v_template": chumpy["add"](a=chumpy["Ch"](x=np.ones(3)), b=1)})
        broken = pickle.dumps({**make_arrays(), "v_template": chumpy["Ch"]()})
    path.write_bytes(sums)
    with pytest.raises(ValueError, match=r"v_template is a chumpy\.ch_ops\.add, which no SMPL file is known to use"):
        load_body_model(path)
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"v_template is a broken chumpy\.ch\.Ch: KeyError\('x'\)"):
        load_body_model(path)
